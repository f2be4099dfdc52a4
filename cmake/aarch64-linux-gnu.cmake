# SPDX-License-Identifier: MIT
# Toolchain: Debian's cross compiler for 64-bit ARM, libraries from Debian's arm64 packages, programs run by qemu.
# `sh scripts/install_deps.sh arm64` installs all three; `cmake --preset neon` uses this file.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
