# SPDX-License-Identifier: MIT
# Checks of the source and of what was built, run by ctest as the tests are.
set(scripts ${PROJECT_SOURCE_DIR}/scripts)
find_package(Python3 COMPONENTS Interpreter QUIET)
find_program(CHECK_CXX NAMES $ENV{CXX} c++ g++ clang++)
find_program(SHELLCHECK shellcheck)

if(Python3_FOUND)
  add_test(NAME check_includes COMMAND ${Python3_EXECUTABLE} ${scripts}/check_includes.py)
  add_test(NAME check_style COMMAND ${Python3_EXECUTABLE} ${scripts}/check_style.py)
  add_test(NAME check_abi COMMAND ${Python3_EXECUTABLE} ${scripts}/check_abi.py)
  add_test(NAME check_abi_itself COMMAND ${Python3_EXECUTABLE} ${scripts}/check_abi.py --self-test)
endif()
if(CHECK_CXX)
  add_test(NAME check_headers COMMAND sh ${scripts}/check_headers.sh ${CMAKE_C_COMPILER} ${CHECK_CXX})
endif()
if(SHELLCHECK)
  file(GLOB shell_scripts ${scripts}/*.sh ${PROJECT_SOURCE_DIR}/.ci/run)
  add_test(NAME check_shell COMMAND ${SHELLCHECK} ${shell_scripts})
endif()
add_test(NAME check_version COMMAND sh ${scripts}/check_version.sh ${PROJECT_BINARY_DIR})

# Sanitizers and coverage add names, and programs that must be linked their way.
if(NOT CMAKE_C_FLAGS MATCHES "-fsanitize|--coverage")
  add_test(NAME check_symbols
           COMMAND sh ${scripts}/check_symbols.sh $<TARGET_FILE:tenon> $<TARGET_FILE:tenon_static>)
  add_test(NAME check_install COMMAND sh ${scripts}/check_install.sh ${PROJECT_BINARY_DIR})
  if(NOT CMAKE_CROSSCOMPILING AND TENON_OPENMP)
    add_test(NAME check_layouts COMMAND sh ${scripts}/check_layouts.sh ${PROJECT_BINARY_DIR} ${CMAKE_C_COMPILER})
    add_test(NAME check_subproject COMMAND sh ${scripts}/check_subproject.sh ${CMAKE_C_COMPILER})
    add_test(NAME check_dependencies COMMAND sh ${scripts}/check_dependencies.sh)
  endif()
endif()
