# SPDX-License-Identifier: MIT
"""Rounding errors against float64, ours beside PyTorch's. Numbers, not times."""

from __future__ import annotations

import numpy as np

from . import inputs
from .cases import Connector
from .environment import say
from .report import mark, markdown
from .session import Session, close
from .workers import Worker

WIDTHS = (768, 1024, 1152, 4096)
FLOOR, FACTOR = 1e-6, 1.25
SIDE = {768: 14, 1024: 16, 1152: 27, 4096: 8}
WINDOW = {768: 2, 1024: 2, 1152: 3, 4096: 2}


def _cases() -> list[Connector]:
    cases = []
    for width in WIDTHS:
        tokens = SIDE[width] ** 2
        for dtype in ("f32", "bf16", "f16"):
            cases.append(Connector("linear", 1, tokens, width, 1024, dtype=dtype, features=dtype))
        cases.append(Connector("mlp_2layer", 1, tokens, width, 4096))
        cases.append(Connector("attentional_pool", 1, tokens, width, 4096, window=WINDOW[width]))
    return cases


def _error(session: Session, worker: Worker, reference: np.ndarray, **fields: object) -> float | None:
    if not session.prepare(worker, **fields):
        return None
    return inputs.worst_token(worker.output(), reference)


def measure(session: Session, ours: Worker, torch: Worker | None, case: Connector) -> dict:
    say(f"accuracy {case.title}")
    reference = inputs.reference(case)
    row = {"title": case.title, "tenon": _error(session, ours, reference, **case.fields())}
    # The same rounded weights and features, computed in f32, or in the storage type as PyTorch's users do.
    for key, compute in (("torch_f32", "f32"), ("torch_storage", case.dtype)):
        row[key] = _error(session, torch, reference, compute=compute, **case.fields()) if torch else None
    row["passed"] = row["tenon"] <= max(FLOOR, FACTOR * (row["torch_f32"] or 0.0))
    return row


def run(session: Session) -> dict:
    ours, torch = session.worker("tenon"), session.prepared("eager", **_cases()[0].fields())
    rows = [measure(session, ours, torch, case) for case in _cases()]
    close([worker for worker in (ours, torch) if worker])
    return {"rows": rows}


def tables(results: dict) -> str:
    text = lambda row, key: f"{row[key]:.1e}" if row[key] is not None else "-"
    rows = [
        [row["title"], text(row, "tenon"), text(row, "torch_f32"), text(row, "torch_storage"), mark(row["passed"])]
        for row in results["rows"]
    ]
    head = ["connector", "tenon", "PyTorch in f32", "PyTorch in the storage type", "bar"]
    note = (
        "Relative error of the worst token against float64, on the same rounded weights and features; tokens are f32. "
        f"Bar: the larger of {FLOOR:g} and {FACTOR} times PyTorch's in f32."
    )
    return markdown("Accuracy", head, rows, note)
