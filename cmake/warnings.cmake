# SPDX-License-Identifier: MIT
# The flags every target of ours is compiled with. -ffp-contract=off: a fused multiply-add stands only where it is
# written, because bits are part of the contract.
function(tenon_flags target)
  target_compile_options(${target} PRIVATE
    -ffp-contract=off -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wconversion
    -Wno-sign-conversion -Wcast-qual -Wpointer-arith -Wundef)
  if(TENON_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  target_compile_definitions(${target} PRIVATE _POSIX_C_SOURCE=200809L _XOPEN_SOURCE=700
                                               _FILE_OFFSET_BITS=64)
endfunction()
