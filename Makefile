# SPDX-License-Identifier: MIT
# The commands of a day; `make` lists them. The build itself is CMake's (CMakePresets.json).
PREFIX ?= /usr/local
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1#/p' Makefile | awk -F'#' '{ printf "  make %-10s %s\n", $$1, $$2 }'
build: ## compile the library and the command (build/release)
	@sh scripts/install_deps.sh build && sh scripts/build.sh release -DTENON_TESTS=OFF
demo: ## install what is missing, build, and run two connectors on a photograph
	@sh scripts/demo.sh
test: ## install what is missing, build, run all tests and checks (minutes)
	@sh scripts/install_deps.sh test && sh scripts/test.sh release && \
	  TENON_PREBUILT=$(CURDIR)/build/release/src/libtenon.a sh scripts/python_test.sh
test-long: ## clang, sanitizers, no OpenMP, each CPU level, sdist, oldest PyTorch, MPI, kills, forks; ARM where installed
	@sh scripts/install_deps.sh ci && sh scripts/test_long.sh
coverage: ## lines of src and cli that the tests reach
	@sh scripts/install_deps.sh test && sh scripts/coverage.sh
bench: ## time connectors and engine beside their peers; BENCH="--quick --only engine" (half an hour without)
	@sh scripts/install_deps.sh build && python3 bench/run.py $(BENCH)
install: build ## install under /usr/local, or PREFIX=...
	@cmake --install build/release --prefix $(abspath $(PREFIX))
uninstall: ## remove what the last install wrote there
	@cmake -DMANIFEST=build/release/install_manifest.txt -DPREFIX=$(abspath $(PREFIX)) -P cmake/uninstall.cmake
clean: ## remove build/, all that was built; kept: environments in the cache folder
	@rm -rf build
tidy: ## clang-tidy over src and cli
	@sh scripts/build.sh clang && run-clang-tidy -quiet -p build/clang '/(src|cli)/' 2>/dev/null
format: ## clang-format every source in place
	@git ls-files '*.c' '*.h' | xargs clang-format -i
.PHONY: help build demo test test-long coverage bench install uninstall clean tidy format
