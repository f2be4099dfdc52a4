# SPDX-License-Identifier: MIT
"""Training steps in PyTorch as a contender: `torch_train_worker.py eager|compile`.

A step sets the gradients to None, as zero_grad() does, runs the connector and goes back to all weights and the features.
"""

from __future__ import annotations

import sys

from serve import Connector, Contender, Fields, serve
from torch_worker import DTYPES, Module

import numpy as np  # isort: skip
import torch  # isort: skip

from harness import inputs  # noqa: E402

F64 = {"f64": torch.float64}


class Trainer(Contender):
    def __init__(self, compiled: bool):
        self.compiled = compiled

    def prepare(self, case: Connector, fields: Fields) -> dict[str, object]:
        if "threads" in fields:
            torch.set_num_threads(int(fields["threads"]))
        dtype = {**DTYPES, **F64}[fields.get("compute", case.dtype)]
        torch._dynamo.reset()
        self.plain = Module(case, dtype).requires_grad_(True)
        self.module = torch.compile(self.plain, dynamic=False) if self.compiled else self.plain
        self.x = torch.from_numpy(inputs.features(case)).to(dtype).requires_grad_()
        self.dy = torch.from_numpy(inputs.token_gradients(case)).to(dtype)
        for _ in range(2):
            self.call()
        return {"version": torch.__version__, "threads": torch.get_num_threads()}

    def call(self) -> None:
        self.plain.zero_grad()
        self.x.grad = None
        self.module(self.x).backward(self.dy)

    def output(self) -> np.ndarray:
        grads = [self.x.grad, *(p.grad for p in self.plain.parameters())]
        return np.concatenate([g.float().numpy().ravel() for g in grads])


if __name__ == "__main__":
    serve(Trainer(compiled=sys.argv[1] == "compile"))
