# SPDX-License-Identifier: MIT
"""Memory that does not grow with the input, and what a terminal sees and a pipe does not."""
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

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


def set_columns(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def on_terminal(*words, out=b"", columns=80, resized=None, env=None):
    """Standard error of the command when it is a terminal; `out` is what its standard output must be, None: anything.
    The terminal gets `resized` columns after the first piece."""
    ours, theirs = pty.openpty()
    set_columns(theirs, columns)
    env = {**os.environ, "TERM": "xterm", **(env or {})}
    process = subprocess.Popen([BINARY, *map(str, words)], stderr=theirs, stdout=subprocess.PIPE, env=env)
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
        if resized:
            set_columns(ours, resized)
            seen, resized = b"", None
    os.close(ours)
    assert process.wait() == 0
    said = process.stdout.read()
    assert out is None or said == out
    return seen.decode()


def drawn(seen):
    """The lines that a terminal was asked to draw over each other."""
    return [part.replace("\x1b[K", "").rstrip("\n") for part in seen.replace("\r\n", "\n").split("\r")]


@pytest.fixture
def long_run(tenon):
    tenon("init", "--type", "avgpool", "--in-dim", "256", "--out-dim", "64", "-o", "adapter.safetensors")
    sparse_npy("x.npy", (400, 256, 256))
    return ["run", "adapter.safetensors", "x.npy", "-o", "y.npy"]


def test_progress_on_a_terminal_and_nothing_on_a_pipe(tenon, long_run):
    seen = on_terminal(*long_run)
    assert "400/400 images" in seen and "100%" in seen and "/s" in seen and "left" in seen
    assert seen.count("\n") == 1 and "400 images" in seen.splitlines()[-1]
    piped = tenon(*long_run).err
    assert "\r" not in piped and "%" not in piped and piped.count("\n") == 1
    os.mkdir("in")
    os.rename("x.npy", "in/x.npy")
    assert "400/400 images" in on_terminal("run", "adapter.safetensors", "in", "-o", "out")


def fit_words(tenon, rng):
    tenon("init", "--type", "linear", "--in-dim", "8", "--out-dim", "4", "-o", "start.safetensors")
    numpy.save("f.npy", rng.normal(size=(16, 4, 8)).astype(numpy.float32))
    numpy.save("t.npy", rng.normal(size=(16, 4, 4)).astype(numpy.float32))
    return ["fit", "--model", "start.safetensors", "--features", "f.npy", "--targets", "t.npy", "--steps", "3000",
            "--val-fraction", "0.2", "-o", "z.safetensors"]


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 200])
def test_C39_the_bar_is_never_wider_than_the_terminal(tenon, long_run, rng, columns):
    bench = ["bench", "adapter.safetensors", "--tokens", "16", "--repeat", "3"]
    for words, unit in ((long_run, "images"), (fit_words(tenon, rng), "steps"), (bench, "forward passes")):
        lines = drawn(on_terminal(*words, columns=columns, out=None))
        assert len(lines) > 2 and all(len(line) < columns for line in lines[:-1])
        assert columns < 40 or any(unit in line for line in lines)
        assert columns < (200 if unit == "steps" else 80) or any(line.startswith("####") for line in lines)
        assert columns < 40 or unit != "steps" or any("loss" in line for line in lines)
        assert columns < 200 or unit != "steps" or any("validation" in line for line in lines)


def test_C39_the_terminal_is_resized_while_a_run_goes_on(tenon, rng):
    seen = on_terminal(*fit_words(tenon, rng), columns=200, resized=30, out=None)
    assert any(len(line) > 25 for line in drawn(seen)) and all(len(line) < 30 for line in drawn(seen)[2:-1])


def test_C39_a_terminal_that_does_not_tell_its_size(tenon, long_run):
    lines = drawn(on_terminal(*long_run, columns=0, env={"COLUMNS": "33"}))
    assert len(lines) > 2 and all(len(line) < 33 for line in lines[:-1])
    assert max(len(line) for line in drawn(on_terminal(*long_run, columns=0, env={"COLUMNS": "x"}))[:-1]) < 80


def test_C39_no_bar_on_a_dumb_terminal(long_run):
    for env in ({"TERM": "dumb"}, {"TERM": ""}, {"TENON_PROGRESS": "0"}):
        seen = on_terminal(*long_run, env=env)
        assert "\x1b" not in seen and "%" not in seen and seen.count("\n") == 1


def test_C39_lines_where_there_is_no_terminal(tenon, long_run, rng):
    """Every half minute; the variable makes it a hundredth of a second."""
    env = {"TENON_PROGRESS": "0.01"}
    for words in (long_run, fit_words(tenon, rng)):
        lines = tenon(*words, env=env).err.splitlines()
        assert len(lines) > 2 and all(line.startswith("tenon: ") and "% " in line and " left" in line for line in lines[:-1])
        assert "%" not in tenon(*words, env={"TENON_PROGRESS": "0"}).err
