# SPDX-License-Identifier: MIT
"""PyTorch as a contender: `torch_worker.py eager|compile`; the connectors as their authors write them."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager

from serve import Connector, Contender, Fields, serve

import numpy as np  # isort: skip
import torch  # isort: skip
import torch.nn.functional as F  # isort: skip

from harness import inputs  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def _linear(weight: np.ndarray, bias: np.ndarray, dtype: torch.dtype) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype, device="meta").to_empty(device="cpu")
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return layer.requires_grad_(False)


class Module(torch.nn.Module):
    def __init__(self, case: Connector, dtype: torch.dtype):
        super().__init__()
        self.case = case
        p = inputs.parameters(case)
        for name, _, _ in case.layers:
            setattr(self, name, _linear(p[f"{name}.weight"], p[f"{name}.bias"], dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.case.kind)(x)

    def mlp_2layer(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj2(F.gelu(self.proj1(x)))

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)

    def _cut(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, per, w, per, w, C)"""
        b, n, c = x.shape
        w = self.case.window
        per = math.isqrt(n) // w
        return x.view(b, per, w, per, w, c)

    def avgpool(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self._cut(x).mean(dim=(2, 4))
        return self.proj(pooled.flatten(1, 2))

    def attentional_pool(self, x: torch.Tensor) -> torch.Tensor:
        b, _, c = x.shape
        k, heads = self.case.window**2, self.case.heads
        rows = self._cut(x).permute(0, 1, 3, 2, 4, 5).reshape(-1, k, c)
        split = lambda t, n: t.view(-1, n, heads, c // heads).transpose(1, 2)
        q = split(self.q_proj(rows.mean(dim=1, keepdim=True)), 1)
        pooled = F.scaled_dot_product_attention(q, split(self.k_proj(rows), k), split(self.v_proj(rows), k))
        return self.out_proj(self.o_proj(pooled.transpose(1, 2).reshape(b, -1, c)))


class Peer(Contender):
    def __init__(self, compiled: bool):
        self.compiled = compiled
        torch.set_grad_enabled(False)
        if compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True  # weights are constants, packed when the module is compiled

    def prepare(self, case: Connector, fields: Fields) -> dict[str, object]:
        if "threads" in fields:
            torch.set_num_threads(int(fields["threads"]))
        dtype = DTYPES[fields.get("compute", case.dtype)]
        torch._dynamo.reset()
        module = Module(case, dtype).eval()
        self.x = torch.from_numpy(inputs.features(case)).to(dtype)
        self.module = torch.compile(module, dynamic=False) if self.compiled else module
        with self.mode():
            for _ in range(2):
                self.call()
        return {"version": torch.__version__, "threads": torch.get_num_threads()}

    def mode(self) -> AbstractContextManager:
        # Freezing in torch.compile needs no_grad; eager is a little faster in inference mode.
        return torch.no_grad() if self.compiled else torch.inference_mode()

    def call(self) -> None:
        self.y = self.module(self.x)

    def output(self) -> np.ndarray:
        return self.y.float().numpy()


if __name__ == "__main__":
    serve(Peer(compiled=sys.argv[1] == "compile"))
