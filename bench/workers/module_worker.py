# SPDX-License-Identifier: MIT
"""tenon.torch as a contender: the modules, inference in inference mode or training steps as torch_train_worker.py has
them (`train` in the request)."""

from __future__ import annotations

from contextlib import AbstractContextManager

from serve import Connector, Contender, Fields, serve
from torch_worker import DTYPES

import numpy as np  # isort: skip
import tenon.torch  # isort: skip
import torch  # isort: skip

from harness import inputs


def _build(case: Connector) -> torch.nn.Module:
    options = {"pool_window": case.window or 2, "pool_heads": case.heads}
    config = tenon.torch.AdapterConfig(type=case.kind, **options)
    with torch.device("meta"):
        module = tenon.torch.build_adapter(config, case.in_dim, case.out_dim)
    module = module.to(DTYPES[case.dtype]).to_empty(device="cpu")
    module.load_state_dict({name: torch.from_numpy(values) for name, values in inputs.parameters(case).items()})
    return module


class Modules(Contender):
    def prepare(self, case: Connector, fields: Fields) -> dict[str, object]:
        if "threads" in fields:
            torch.set_num_threads(int(fields["threads"]))
        self.train = "train" in fields
        self.module = _build(case)
        self.x = torch.from_numpy(inputs.features(case)).to(DTYPES[case.features])
        if self.train:
            self.x.requires_grad_()
            self.dy = torch.from_numpy(inputs.token_gradients(case))
        with self.mode():
            for _ in range(2):
                self.call()
        return {"version": tenon.__version__, "threads": torch.get_num_threads()}

    def mode(self) -> AbstractContextManager:
        return torch.inference_mode(not self.train)

    def call(self) -> None:
        if not self.train:
            self.y = self.module(self.x)
            return
        self.module.zero_grad()
        self.x.grad = None
        self.module(self.x).backward(self.dy)

    def output(self) -> np.ndarray:
        if not self.train:
            return self.y.float().numpy()
        grads = [self.x.grad, *(p.grad for p in self.module.parameters())]
        return np.concatenate([g.float().numpy().ravel() for g in grads])


if __name__ == "__main__":
    serve(Modules())
