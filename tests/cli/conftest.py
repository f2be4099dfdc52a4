# SPDX-License-Identifier: MIT
"""The command under test is $TENON_BIN; every test has a folder of its own as the working directory."""
import json
import os
import subprocess

import numpy
import pytest
from safetensors.numpy import load_file, save_file

import reference

BINARY = os.environ.get("TENON_BIN", "tenon")

# Builds with AddressSanitizer: a size that no machine has is a failed allocation there too, not the end.
os.environ.setdefault("ASAN_OPTIONS", "allocator_may_return_null=1")


class Result:
    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout
        # The sanitizers' remarks, "==123==WARNING: ...", are not the command's words.
        self.err = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("=="))

    @property
    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"exit {self.code}\nstdout: {self.out}\nstderr: {self.err}"


def run(*words, env=None, **options):
    done = subprocess.run(
        [BINARY, *map(str, words)], capture_output=True, text=True, errors="surrogateescape", timeout=300,
        env={**os.environ, **(env or {})}, **options
    )
    return Result(done)


@pytest.fixture
def tenon(tmp_path, monkeypatch):
    """Runs the command and expects an exit code, 0 unless told, any where it is None: tenon("tokens", ..., code=2). What
    fails says so in one line, or in `lines` of them."""
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0, lines=1, **options):
        result = run(*words, **options)
        assert code is None or result.code == code, result
        if code and result.err:
            assert result.err.startswith("tenon: ") and result.err.count("\n") == lines, result
        return result

    return call


@pytest.fixture
def make(tenon):
    """Makes an adapter file and returns its name, config and parameters as float64: make("avgpool", 8, 6, window=3)."""

    def build(kind, in_dim, out_dim, name="adapter.safetensors", **options):
        words = ["init", "--type", kind, "--in-dim", in_dim, "--out-dim", out_dim, "-o", name]
        for key, value in options.items():
            words += [f"--{key.replace('_', '-')}", value]
        tenon(*words)
        return reference.Adapter.read(name)

    return build


@pytest.fixture
def rng():
    return numpy.random.default_rng(20240607)


def save_npy(path, array):
    numpy.save(path, array)
    return path


def load_tokens(path, dtype=None):
    """Tokens of an output file as float64; dtype "bf16" for npy files of bfloat16 bits."""
    path = str(path)
    array = numpy.load(path) if path.endswith(".npy") else reference.load_safetensors(path)["tokens"]
    if dtype == "bf16" and array.dtype == numpy.uint16:
        array = reference.from_bf16(array)
    return array.astype(numpy.float64)


def worst_relative(a, b):
    """The largest ||a - b|| / ||b|| of all tokens; 0 where both are zero."""
    a, b = numpy.asarray(a, float), numpy.asarray(b, float)
    assert a.shape == b.shape
    difference = numpy.linalg.norm(a - b, axis=-1)
    norm = numpy.linalg.norm(b, axis=-1)
    relative = numpy.where(difference == 0, 0, difference / numpy.where(norm == 0, 1e-300, norm))
    return float(relative.max(initial=0))


__all__ = ["load_file", "save_file"]
