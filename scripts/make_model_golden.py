# SPDX-License-Identifier: MIT
"""Writes tests/golden/models.json and models.bin: what the connectors of public models must give, from the models' own
classes in transformers, with random weights. Run by hand, with python/requirements-test.txt and this package installed:

    python scripts/make_model_golden.py             writes both
    python scripts/make_model_golden.py --check     computes them again and compares

The cases are those of python/tests/test_models.py. The .json is a list; numbers lie in the .bin, raw and little endian,
and a case names the byte offset where an array starts. Fields: `name`; `config` as tenon_config_from_json takes it;
`in_dim`, `out_dim`; `grid` of all images, or `grids`, those of a packed batch; `inputs`, a list of `name` (the first is
"x"), `shape`, `data` (float32) and `gradient` (float64); `outputs`, of `name`, `shape`, `data` (float64), `dy`
(float32) and `error`: the relative error of the worst row when the class computes in float32; `parameters`, of `name`,
`shape`, `data` (float32) and `gradient` (float64) of the sum of outputs times dy.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests/golden"


class Data:
    """The bytes of the .bin."""

    def __init__(self):
        self.bytes = bytearray()

    def add(self, array, dtype):
        """Appends an array and returns where it starts, aligned to 8."""
        self.bytes += bytes(-len(self.bytes) % 8)
        start = len(self.bytes)
        self.bytes += array.astype(dtype).tobytes()
        return start


def fields(name, data):
    import test_models as models
    import torch

    case, g = models.random_case(name)
    exact, single, dys, exact_dx, exact_dw = models.truth(case, g)
    state = models.state_of(case)
    grids = case.call.get("grids")
    return {
        "name": name,
        "config": {"type": case.kind, **case.options},
        "in_dim": case.features[0].shape[-1],
        "out_dim": case.out_dim,
        **({"grid": list(case.call["grid"])} if "grid" in case.call else {}),
        **({"grids": torch.as_tensor(grids).tolist()} if grids is not None else {}),
        "inputs": [
            {
                "name": f"tap.{i - 1}" if i else "x",
                "shape": list(x.shape),
                "data": data.add(x.numpy(), "<f4"),
                "gradient": data.add(dx, "<f8"),
            }
            for i, (x, dx) in enumerate(zip(case.features, exact_dx))
        ],
        "outputs": [
            {
                "name": f"deepstack.{i - 1}" if i else "tokens",
                "shape": list(y.shape),
                "data": data.add(y, "<f8"),
                "dy": data.add(dy.numpy(), "<f4"),
                "error": models.worst_row(other, y),
            }
            for i, (y, dy, other) in enumerate(zip(exact, dys, single))
        ],
        "parameters": [
            {
                "name": key,
                "shape": list(value.shape),
                "data": data.add(value, "<f4"),
                "gradient": data.add(exact_dw[key], "<f8"),
            }
            for key, value in state.items()
        ],
    }


def make():
    sys.path.insert(0, str(ROOT / "python/tests"))
    import test_models as models

    data = Data()
    with models.all_in_double():
        cases = [fields(name, data) for name in models.CASES]
    lines = ",\n".join(json.dumps(case) for case in cases)
    return f"[\n{lines}\n]\n".encode(), bytes(data.bytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the files that are there")
    check = parser.parse_args().check
    for name, content in zip(("models.json", "models.bin"), make()):
        if not check:
            (FOLDER / name).write_bytes(content)
        elif (FOLDER / name).read_bytes() != content:
            sys.exit(f"tests/golden/{name} is not what the classes give here")


if __name__ == "__main__":
    main()
