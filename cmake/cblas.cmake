# SPDX-License-Identifier: MIT
# TENON_CBLAS: the libraries with the CBLAS interface, with 32-bit sizes. BLA_VENDOR=OpenBLAS (FLAME, Intel10_64lp, ...)
# chooses; some systems keep the interface in a library of its own, libcblas.
include(CheckFunctionExists)
find_package(BLAS REQUIRED)
set(TENON_CBLAS ${BLAS_LIBRARIES})
set(CMAKE_REQUIRED_LIBRARIES ${TENON_CBLAS} m)
check_function_exists(cblas_sgemm TENON_BLAS_HAS_CBLAS)
if(NOT TENON_BLAS_HAS_CBLAS)
  find_library(CBLAS_LIBRARY cblas)
  if(NOT CBLAS_LIBRARY)
    message(FATAL_ERROR "${BLAS_LIBRARIES} has no CBLAS interface and there is no libcblas; another one is chosen with "
                        "-DBLA_VENDOR=OpenBLAS")
  endif()
  list(PREPEND TENON_CBLAS ${CBLAS_LIBRARY})
endif()
unset(CMAKE_REQUIRED_LIBRARIES)
