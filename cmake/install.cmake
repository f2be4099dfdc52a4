# SPDX-License-Identifier: MIT
# What `cmake --install` puts where: libraries, header, pkg-config file, CMake package. The command installs itself.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tenon)

install(TARGETS tenon EXPORT tenon-targets)
install(TARGETS tenon_static EXPORT tenon-static-targets)
install(EXPORT tenon-targets NAMESPACE tenon:: DESTINATION ${package_dir})
install(EXPORT tenon-static-targets NAMESPACE tenon:: DESTINATION ${package_dir})
install(FILES include/tenon/tenon.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/tenon)

configure_package_config_file(cmake/tenon-config.cmake.in tenon-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(tenon-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tenon-config.cmake ${PROJECT_BINARY_DIR}/tenon-config-version.cmake
        DESTINATION ${package_dir})

# The command finds its library wherever the two are moved together.
if(TENON_CLI AND NOT IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR} AND NOT IS_ABSOLUTE ${CMAKE_INSTALL_BINDIR})
  file(RELATIVE_PATH to_libraries /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(tenon_command PROPERTIES INSTALL_RPATH "\$ORIGIN/${to_libraries}")
endif()

# An absolute GNUInstallDirs path stands for itself in the .pc file, a relative one is under the prefix.
foreach(kind INCLUDEDIR LIBDIR)
  if(IS_ABSOLUTE ${CMAKE_INSTALL_${kind}})
    set(TENON_PC_${kind} ${CMAKE_INSTALL_${kind}})
  else()
    set(TENON_PC_${kind} "\${prefix}/${CMAKE_INSTALL_${kind}}")
  endif()
endforeach()
if(NOT DLPACK_INCLUDE_DIR IN_LIST CMAKE_C_IMPLICIT_INCLUDE_DIRECTORIES)
  set(TENON_PC_CFLAGS " -I${DLPACK_INCLUDE_DIR}")
endif()
set(TENON_PC_LIBS_PRIVATE "${tenon_openmp_flags} ${CMAKE_THREAD_LIBS_INIT} -lm")
string(REGEX REPLACE " +" " " TENON_PC_LIBS_PRIVATE "${TENON_PC_LIBS_PRIVATE}")
string(STRIP "${TENON_PC_LIBS_PRIVATE}" TENON_PC_LIBS_PRIVATE)
configure_file(cmake/tenon.pc.in tenon.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tenon.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
