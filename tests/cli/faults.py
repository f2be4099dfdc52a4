# SPDX-License-Identifier: MIT
"""System calls that fail, as file systems without them have it: preexec_fn=failing("flock", errno.ENOSYS)."""
import ctypes
import platform
import struct

import pytest

NUMBERS = {"x86_64": {"flock": 73, "fsync": 74, "fdatasync": 75}, "aarch64": {"flock": 32, "fsync": 82, "fdatasync": 83}}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of BPF
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
C = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def failing(name, number):
    """Makes a system call of the calling process fail with this errno from here on, in its children too."""
    if platform.machine() not in NUMBERS or C.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None, 0, 0) == 0:
        pytest.skip("system calls cannot be made to fail here")
    code = b"".join(struct.pack("HBBI", *line) for line in [
        (LOAD, 0, 0, 0),  # the number of the call
        (JUMP_IF_EQUAL, 0, 1, NUMBERS[platform.machine()][name]),
        (RETURN, 0, 0, ERRNO | number),
        (RETURN, 0, 0, ALLOW),
    ])

    def install():
        program = Program(4, ctypes.cast(ctypes.create_string_buffer(code, len(code)), ctypes.c_void_p))
        if C.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or C.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
                                                                    ctypes.byref(program), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")

    return install
