# SPDX-License-Identifier: MIT
"""npy files as NumPy writes and reads them: every order, spelling and rank, judged by NumPy."""
import pathlib

import numpy
import pytest

CORPUS = pathlib.Path(__file__).parent.parent / "fuzz/corpus"


def write_npy(path, descr, array, order="C"):
    """The bytes of an array under a header of our own making."""
    header = repr({"descr": descr, "fortran_order": order == "F", "shape": array.shape}).encode() + b"\n"
    with open(path, "wb") as out:
        out.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + array.tobytes(order))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", ">f8"])
def test_C17_columns_are_read_as_numpy_reads_them(tenon, rng, dtype):
    shapes = [(3, 5), (5, 3, 4), (2, 1, 7), (700, 31), (31, 700), (4, 3, 2, 5), (1500, 4, 2)]
    for shape in shapes:
        array = rng.standard_normal(shape).astype(dtype)
        numpy.save("columns.npy", numpy.asfortranarray(array))
        assert b"'fortran_order': True" in open("columns.npy", "rb").read(128) or min(shape) == 1
        numpy.save("rows.npy", numpy.load("columns.npy").copy("C"))
        tenon("compare", "columns.npy", "rows.npy", "--tol", "0")


@pytest.mark.parametrize("kind", ["linear", "avgpool"])
def test_C17_run_on_columns(tenon, make, rng, kind):
    make(kind, 8, 6, **({"window": 2} if kind == "avgpool" else {}))
    x = rng.standard_normal((5, 16, 8)).astype(numpy.float32)
    mask = rng.random((5, 16)) < 0.7
    words = ["--patch-mask", "mask.npy"]
    tokens = {}
    for name, order in (("rows", numpy.ascontiguousarray), ("columns", numpy.asfortranarray)):
        numpy.save("x.npy", order(x))
        numpy.save("mask.npy", order(mask))
        tenon("run", "adapter.safetensors", "x.npy", "-o", f"{name}.npy", *words)
        tokens[name] = numpy.load(f"{name}.npy")
    assert tokens["rows"].tobytes() == tokens["columns"].tobytes()


DESCRS = ["f4", "|f4", "=f4", "f", "<f", ">f", "float32", "single", "float16", "half", "e", ">e", "float64", "double", "float",
          "d", "<d", "<float32", "F4", "<<f4", "f4 x", "", "float33"]


@pytest.mark.parametrize("descr", DESCRS)
def test_C18_descr_is_read_where_numpy_reads_it(tenon, descr):
    try:
        dtype = numpy.dtype(descr) if descr else None
    except TypeError:
        dtype = None
    array = numpy.array([[1.5, -2.0, 0.25]], dtype or "<f4")
    write_npy("x.npy", descr, array)
    if dtype is None:
        assert "x.npy: holds elements of type" in tenon("compare", "x.npy", "x.npy", code=2).err
        return
    numpy.save("y.npy", numpy.load("x.npy"))
    tenon("compare", "x.npy", "y.npy", "--tol", "0")


def test_C18_objects_are_called_so(tenon):
    numpy.save("x.npy", numpy.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    said = tenon("compare", "x.npy", "x.npy", code=2).err
    assert "x.npy: holds pickled Python objects" in said and "allow_pickle" not in said


def test_hostile_headers_are_one_sentence(tenon, make):
    """Under the sanitizers too: nothing overflows, whatever is done with the file."""
    make("linear", 4, 3)
    numpy.save("x.npy", numpy.ones((1, 4, 4), numpy.float32))
    config = '{"type": "linear", "in_dim": 4, "out_dim": 3}'
    open("config.json", "w").write(config)
    for path in sorted(CORPUS.iterdir()):
        for words in (
            ["inspect", path],
            ["inspect", path, "--json"],
            ["inspect", path, "--config", "config.json"],
            ["compare", path, path],
            ["compare", path, path, "--json"],
            ["run", path, "x.npy", "-o", "y.npy"],
            ["run", "adapter.safetensors", path, "-o", "y.npy"],
            ["run", "adapter.safetensors", "x.npy", "--patch-mask", path, "-o", "y.npy"],
        ):
            result = tenon(*words, code=None)
            assert result.code in (0, 1, 2), (path.name, words[0], result)
            assert result.code == 0 or result.err.startswith("tenon: ") and result.err.count("\n") == 1, (path.name, result)
