# SPDX-License-Identifier: MIT
# What `cmake --install` puts where: libraries, header, pkg-config file, CMake package; the command with its man page and
# completion; licence, documents and examples.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tenon)

install(TARGETS tenon EXPORT tenon-targets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS tenon_static EXPORT tenon-static-targets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT tenon-targets NAMESPACE tenon:: DESTINATION ${package_dir})
install(EXPORT tenon-static-targets NAMESPACE tenon:: DESTINATION ${package_dir})
install(FILES include/tenon/tenon.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/tenon)

configure_package_config_file(cmake/tenon-config.cmake.in tenon-config.cmake INSTALL_DESTINATION ${package_dir})
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(compatibility SameMinorVersion)
else()
  set(compatibility SameMajorVersion)
endif()
write_basic_package_version_file(tenon-config-version.cmake COMPATIBILITY ${compatibility})
install(FILES ${PROJECT_BINARY_DIR}/tenon-config.cmake ${PROJECT_BINARY_DIR}/tenon-config-version.cmake
        DESTINATION ${package_dir})

if(TENON_CLI)
  install(TARGETS tenon_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES docs/tenon.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES cli/completion/tenon.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME tenon)
  # The command finds its library wherever the two are moved together.
  if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR} OR IS_ABSOLUTE ${CMAKE_INSTALL_BINDIR})
    set_target_properties(tenon_command PROPERTIES INSTALL_RPATH ${CMAKE_INSTALL_FULL_LIBDIR})
  else()
    file(RELATIVE_PATH to_libraries /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
    set_target_properties(tenon_command PROPERTIES INSTALL_RPATH "\$ORIGIN/${to_libraries}")
  endif()
endif()

# In the folders that their links expect. CMAKE_INSTALL_DOCDIR bears the name of the project at the top.
set(documents ${CMAKE_INSTALL_DOCDIR})
if(NOT PROJECT_IS_TOP_LEVEL)
  set(documents ${CMAKE_INSTALL_DATAROOTDIR}/doc/tenon)
endif()
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${documents})
install(DIRECTORY docs/ DESTINATION ${documents}/docs
        FILES_MATCHING PATTERN "*.md" PATTERN "*.png" PATTERN "*.svg" PATTERN reference EXCLUDE)
install(DIRECTORY examples DESTINATION ${documents} PATTERN __pycache__ EXCLUDE)

# The pkg-config file says where it lies itself, so that the prefix may be chosen at installation, or moved later. An
# absolute GNUInstallDirs path stands for itself; where the file's own is one, the prefix is the configured one.
if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR})
  set(TENON_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" to_prefix ${to_prefix})
  set(TENON_PC_PREFIX "\${pcfiledir}/${to_prefix}")
endif()
foreach(kind INCLUDEDIR LIBDIR)
  if(IS_ABSOLUTE ${CMAKE_INSTALL_${kind}})
    set(TENON_PC_${kind} ${CMAKE_INSTALL_${kind}})
  else()
    set(TENON_PC_${kind} "\${prefix}/${CMAKE_INSTALL_${kind}}")
  endif()
endforeach()
if(NOT TENON_DLPACK_INCLUDE_DIR IN_LIST CMAKE_C_IMPLICIT_INCLUDE_DIRECTORIES)
  set(TENON_PC_CFLAGS " -I${TENON_DLPACK_INCLUDE_DIR}")
endif()
set(TENON_PC_LIBS_PRIVATE "${tenon_openmp_flags} ${CMAKE_THREAD_LIBS_INIT} -lm")
string(REGEX REPLACE " +" " " TENON_PC_LIBS_PRIVATE "${TENON_PC_LIBS_PRIVATE}")
string(STRIP "${TENON_PC_LIBS_PRIVATE}" TENON_PC_LIBS_PRIVATE)
configure_file(cmake/tenon.pc.in tenon.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tenon.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# `cmake --build BUILD --target uninstall`, what `make uninstall` runs.
if(PROJECT_IS_TOP_LEVEL)
  add_custom_target(uninstall COMMAND ${CMAKE_COMMAND} -DMANIFEST=${PROJECT_BINARY_DIR}/install_manifest.txt
                                      -P ${PROJECT_SOURCE_DIR}/cmake/uninstall.cmake VERBATIM)
endif()
