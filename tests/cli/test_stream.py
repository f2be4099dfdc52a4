# SPDX-License-Identifier: MIT
"""tenon run with "-": features from standard input, tokens to standard output."""
import io
import json
import os
import pty
import subprocess

import numpy
import pytest
from safetensors.numpy import load, save

from conftest import BINARY
from test_run import CLEAN


def stream(*words, data=b"", code=0, **options):
    """Runs the command on bytes; returns what it wrote to standard output and to standard error."""
    done = subprocess.run([BINARY, "run", *map(str, words)], input=data, capture_output=True, timeout=300, **options)
    assert done.returncode == code, done
    return done.stdout, done.stderr.decode()


def npy(array):
    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


@pytest.fixture
def x(tenon, make, rng):
    make("attentional_pool", 8, 6, heads=2)
    array = rng.normal(size=(5, 16, 8)).astype(numpy.float32)
    numpy.save("x.npy", array)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy")
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.safetensors")
    return array


def read(path):
    return open(path, "rb").read()


def test_a_pipe_gives_the_bytes_of_files(tenon, x):
    out, said = stream("adapter.safetensors", "-", "-o", "-", data=npy(x))
    assert out == read("y.npy")
    assert said.startswith("standard input -> standard output: 5 images, 20 tokens of width 6 in f32") and said.count("\n") == 1
    out, _ = stream("adapter.safetensors", "-", "-o", "-", data=save({"ids": numpy.arange(3), "x": x}))
    assert out == read("y.safetensors")
    assert stream("adapter.safetensors", "x.npy", "-o", "-")[0] == read("y.npy")
    stream("adapter.safetensors", "-", "-o", "z.npy", data=npy(x))
    assert read("z.npy") == read("y.npy")
    stream("adapter.safetensors", "-", "-o", "z.safetensors", data=npy(x))
    assert read("z.safetensors") == read("y.safetensors")
    with open("x.npy", "rb") as file, open("w.npy", "wb") as out:
        subprocess.run([BINARY, "run", "adapter.safetensors", "-", "-o", "-"], stdin=file, stdout=out, check=True,
                       stderr=subprocess.DEVNULL)
    assert read("w.npy") == read("y.npy")


def test_options_go_with_a_pipe(tenon, x, rng):
    mask = rng.random((5, 16)) < 0.6
    numpy.save("p.npy", mask)
    words = ["adapter.safetensors", "-", "--patch-mask", "p.npy", "--dtype", "bf16", "--grid", "2x8", "--attention", "a.npy"]
    out, _ = stream(*words, "-o", "-", data=npy(x))
    tenon("run", "adapter.safetensors", "x.npy", *words[2:-1], "b.npy", "-o", "z.npy")
    assert out == read("z.npy") and read("a.npy") == read("b.npy")
    out, _ = stream("adapter.safetensors", "-", "-o", "-", "--tensor", "b", data=save({"a": x, "b": x + 1}))
    numpy.save("b.npy", x + 1)
    tenon("run", "adapter.safetensors", "b.npy", "-o", "z.npy")
    assert numpy.array_equal(load(out)["tokens"], numpy.load("z.npy"))
    out, _ = stream("adapter.safetensors", "-", "-o", "-", data=npy(x[0]))
    assert numpy.load(io.BytesIO(out)).shape == (4, 6)
    out, _ = stream("adapter.safetensors", "-", "-o", "-", data=npy(x[:0]))
    assert numpy.load(io.BytesIO(out)).shape == (0, 4, 6)


def test_more_than_a_chunk_through_a_pipe(tenon, make, rng):
    make("linear", 64, 80)
    big = rng.normal(size=(900, 256, 64)).astype(numpy.float32)
    numpy.save("x.npy", big)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy")
    assert stream("adapter.safetensors", "-", "-o", "-", data=npy(big))[0] == read("y.npy")


def test_results_go_to_standard_error(tenon, x):
    x[3, 2, 1] = numpy.nan
    out, said = stream("adapter.safetensors", "-", "-o", "-", "--json", data=npy(x))
    got = json.loads(said)
    assert numpy.load(io.BytesIO(out)).shape == (5, 4, 6) and (got["features"], got["output"]) == ("-", "-")
    assert got["nonfinite"]["features"] == {
        "count": 1, "first": {"file": "-", "image": 3, "token": 2, "column": 1, "value": "nan"}}
    said = stream("adapter.safetensors", "-", "-o", "-", data=npy(x))[1]
    assert "(first: standard input, image 3, token 2, column 1 is nan)" in said and "(first: standard output, " in said
    out, said = stream("adapter.safetensors", "-", "-o", "z.npy", "--json", data=npy(x - x))
    assert json.loads(out)["nonfinite"]["features"]["count"] == 1 and said == ""
    said = stream("adapter.safetensors", "-", "-o", "-", "--check-finite", data=npy(x), code=1)[1]
    assert "tenon: standard input: in the features, image 3, token 2, column 1 is nan" in said
    out, said = stream("adapter.safetensors", "-", "-o", "-", "--json", "--check-finite", data=npy(numpy.ones_like(x)))
    assert json.loads(said)["nonfinite"] == CLEAN


@pytest.mark.parametrize("data, says", [
    (b"", "standard input: "),
    (b"hello, world\n" * 20, "standard input: "),
    (npy(numpy.zeros((2, 16, 9), numpy.float32)), "standard input: features (2, 16, 9) have width 9"),
    (npy(numpy.zeros((2, 16, 8), numpy.int64)), "standard input: features are i64"),
    (npy(numpy.zeros((2, 16, 8), numpy.float32))[:-4], "standard input: "),
    (npy(numpy.zeros((2, 15, 8), numpy.float32)), "standard input: "),
])
def test_bad_streams(tenon, x, data, says):
    out, said = stream("adapter.safetensors", "-", "-o", "-", data=data, code=1)
    assert out == b"" and said.startswith(f"tenon: {says}") and said.count("\n") == 1


@pytest.mark.parametrize("words, says", [
    (["-", "x.npy", "-o", "y.npy"], "MODEL takes a file"),
    (["adapter.safetensors", "x.npy", "-o", "y.npy", "--patch-mask", "-"], "--patch-mask takes a file"),
    (["adapter.safetensors", "x.npy", "-o", "y.npy", "--frame-mask", "-"], "--frame-mask takes a file"),
    (["adapter.safetensors", "x.npy", "-o", "-", "--attention", "-"], "--attention takes a file"),
])
def test_what_cannot_be_a_stream(tenon, x, words, says):
    assert f"{says}, not '-'; only FEATURES and -o can be '-'" in stream(*words, code=2)[1]


@pytest.mark.parametrize("words, says", [
    (["init", "--type", "linear", "--in-dim", 4, "--out-dim", 4, "-o", "-"], "-o takes a file, not '-';"),
    (["init", "--type", "linear", "--in-dim", 4, "--out-dim", 4, "-o-"], "-o takes a file, not '-';"),
    (["inspect", "-"], "MODEL takes a file, not '-';"),
    (["inspect", "adapter.safetensors", "--config", "-"], "--config takes a file, not '-';"),
    (["bench", "-", "--tokens", 4], "MODEL takes a file, not '-';"),
    (["fit", "--model", "-", "--features", "x.npy", "--targets", "y.npy", "-o", "z.safetensors"], "--model takes a file, not '-';"),
    (["fit", "--model", "adapter.safetensors", "--features", "-", "--targets", "y.npy", "-o", "z.safetensors"],
     "--features takes a file, not '-';"),
    (["fit", "--model", "adapter.safetensors", "--features", "x.npy", "--targets", "-", "-o", "z.safetensors"],
     "--targets takes a file, not '-';"),
    (["fit", "--model", "adapter.safetensors", "--features", "x.npy", "--targets", "y.npy", "-o", "-"], "-o takes a file, not '-';"),
    (["fit", "--model", "adapter.safetensors", "--features", "x.npy", "--targets", "y.npy", "-o", "z.safetensors",
      "--checkpoint", "-"], "--checkpoint takes a folder, not '-';"),
    (["fit", "--model", "adapter.safetensors", "--features", "x.npy", "--targets", "y.npy", "-o", "z.safetensors",
      "--log", "-"], "--log takes a file, not '-';"),
    (["compare", "-", "-"], "one of A and B can be '-'"),
    (["tokens", "-", "--type", "avgpool"], "'-'"),
])
def test_other_subcommands_say_where_no_stream_is_meant(tenon, x, words, says):
    assert says in tenon(*words, code=2).err and not os.path.exists("-")


def test_compare_takes_one_stream(tenon, x):
    def compare(*words, data, code=0):
        done = subprocess.run([BINARY, "compare", *words], input=data, capture_output=True, timeout=300)
        assert done.returncode == code, done
        return done.stdout.decode() + done.stderr.decode()

    tokens = read("y.npy")
    assert "same" in compare("-", "y.npy", data=tokens) and "same" in compare("y.safetensors", "-", data=tokens)
    assert "standard input" in compare("x.npy", "-", data=tokens, code=2)
    assert "standard input" in compare("x.npy", "-", data=b"hello", code=2)
    assert "neither standard input nor y.safetensors is npy" in compare(
        "-", "y.safetensors", "--npy-bf16", data=read("y.safetensors"), code=2)
    assert "different" in compare("-", "y.npy", data=npy(numpy.load("y.npy") + 1), code=1)
    done = subprocess.run(["sh", "-c", f"{BINARY} compare y.npy - <&-"], capture_output=True)
    assert done.returncode == 2 and b"standard input is closed" in done.stderr


def test_a_folder_is_no_stream(tenon, x):
    os.mkdir("in")
    os.rename("x.npy", "in/x.npy")
    assert "-o -: in is a folder" in stream("adapter.safetensors", "in", "-o", "-", code=1)[1]
    os.mkdir("-")  # a folder of that name is ./-
    assert stream("adapter.safetensors", "-", "-o", "-", data=npy(x))[0] == read("y.npy")
    assert "--force" in stream("adapter.safetensors", "-", "-o", "-", "--force", data=npy(x), code=1)[1]


def test_terminals_are_refused(tenon, x):
    ours, theirs = pty.openpty()
    for words, streams, says in ((["-", "-o", "z.npy"], {"stdin": theirs}, "standard input: is a terminal"),
                                 (["x.npy", "-o", "-"], {"stdout": theirs}, "-o -: standard output is a terminal")):
        done = subprocess.run([BINARY, "run", "adapter.safetensors", *words], stderr=subprocess.PIPE, **streams)
        assert done.returncode == 1 and says in done.stderr.decode() and not os.path.exists("z.npy")
    os.close(theirs)
    os.close(ours)


def test_a_reader_that_goes_away(tenon, make):
    make("linear", 256, 512)
    numpy.save("x.npy", numpy.zeros((40, 256, 256), numpy.float32))
    process = subprocess.Popen([BINARY, "run", "adapter.safetensors", "x.npy", "-o", "-"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.read(100)
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait() == 1 and said.startswith("tenon: standard output: ") and said.count("\n") == 1, said
    with open("/dev/full", "wb") as full:
        done = subprocess.run([BINARY, "run", "adapter.safetensors", "x.npy", "-o", "-"], stdout=full,
                              stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"tenon: standard output: " in done.stderr
    closed = subprocess.run(["sh", "-c", f'cat x.npy | "{BINARY}" run adapter.safetensors - -o - >&-'], stderr=subprocess.PIPE)
    assert closed.returncode == 1 and closed.stderr == b"tenon: -o -: standard output is closed\n"
    closed = subprocess.run(["sh", "-c", f'exec "{BINARY}" run adapter.safetensors - -o y.npy <&-'], stderr=subprocess.PIPE)
    assert closed.returncode == 1 and closed.stderr == b"tenon: standard input is closed\n" and not os.path.exists("y.npy")


def test_C1_a_redirected_input_is_not_written_over(tenon, x):
    old = read("x.npy")
    os.link("x.npy", "hard.npy")
    for name in ("x.npy", "hard.npy"):
        with open("x.npy", "rb") as file:
            done = subprocess.run([BINARY, "run", "adapter.safetensors", "-", "-o", name], stdin=file, capture_output=True)
        assert done.returncode == 1 and read(name) == old, done
    stream("adapter.safetensors", "-", "-o", "x.npy", data=old)  # a pipe: nobody knows where it comes from
