# SPDX-License-Identifier: MIT
"""Memory that does not grow with the input, and what a terminal sees and a pipe does not."""
import os
import pty
import subprocess
import sys

import numpy
import pytest

from conftest import BINARY


def sparse_npy(path, shape):
    """A float32 npy file of zeros that takes no room on disk."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % (shape,)
    header = header.encode().ljust(117) + b"\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        file.truncate(10 + len(header) + 4 * int(numpy.prod(shape)))


# A child starts with the peak of the process that made it, so a small one stands between pytest and the command.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_memory(*words):
    """Largest resident size of the command, in MiB."""
    done = subprocess.run([sys.executable, "-ISc", LAUNCHER, BINARY, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.mark.parametrize("kind, options", [("avgpool", []), ("attentional_pool", ["--heads", "4"])])
def test_memory_does_not_grow_with_the_images(tenon, kind, options):
    tenon("init", "--type", kind, "--in-dim", "256", "--out-dim", "64", *options, "-o", "adapter.safetensors")
    peaks = []
    for images in (600, 1600):  # 157 MB and 419 MB of features, both more than the ring of chunks
        sparse_npy("x.npy", (images, 256, 256))
        peaks.append(peak_memory("run", "adapter.safetensors", "x.npy", "-o", "y.npy"))
        assert numpy.load("y.npy", mmap_mode="r").shape == (images, 64, 64)
    assert peaks[1] < peaks[0] + 16 and peaks[1] < 160, peaks


def test_memory_of_compare(tenon):
    sparse_npy("a.npy", (2000, 256, 256))
    assert peak_memory("compare", "a.npy", "a.npy") < 48


def test_a_header_that_promises_more_than_the_file(tenon):
    tenon("init", "--type", "linear", "--in-dim", "256", "--out-dim", "64", "-o", "adapter.safetensors")
    sparse_npy("x.npy", (10, 256, 256))
    data = open("x.npy", "rb").read().replace(b"(10, 256, 256)", b"(10**9, 2, 256)"[:14])
    open("x.npy", "wb").write(data)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1)


def on_terminal(*words, out=b""):
    """Standard error of the command when it is a terminal; `out` is what its standard output must be, None: anything."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([BINARY, *words], stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait() == 0
    said = process.stdout.read()
    assert out is None or said == out
    return seen.decode()


def test_progress_on_a_terminal_and_nothing_on_a_pipe(tenon):
    tenon("init", "--type", "avgpool", "--in-dim", "256", "--out-dim", "64", "-o", "adapter.safetensors")
    sparse_npy("x.npy", (400, 256, 256))
    words = ["run", "adapter.safetensors", "x.npy", "-o", "y.npy"]
    seen = on_terminal(*words)
    assert "400/400 images" in seen and "100%" in seen and "/s" in seen and "left" in seen
    assert seen.count("\n") == 1 and "400 images" in seen.splitlines()[-1]
    piped = tenon(*words).err
    assert "\r" not in piped and "%" not in piped and piped.count("\n") == 1
    os.mkdir("in")
    os.rename("x.npy", "in/x.npy")
    assert "400/400 images" in on_terminal("run", "adapter.safetensors", "in", "-o", "out")
