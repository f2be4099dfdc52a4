# SPDX-License-Identifier: MIT
"""prepare against a plain copy, and opening against the size of the file."""

from __future__ import annotations

import pathlib
import tempfile

from .cases import CONNECTOR_BF16, CONNECTORS, Connector
from .environment import say
from .measures import Series
from .report import mark, markdown
from .session import Session, close
from .workers import Worker, numbers

BAR, FOLD_SHARE = 1.5, 0.80


def _opening(worker: Worker) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "adapter.safetensors"
        worker.ask("save", path=path)
        answer = {key: int(value) for key, value in worker.ask("open", path=path).items()}
        return answer | {"file_bytes": path.stat().st_size}


def measure(session: Session, case: Connector) -> dict:
    say(f"prepare: {case.title}")
    worker, probe = session.prepared("tenon", **case.fields()), session.probe()
    packs, copies, peaks = [], [], []
    for _ in range(session.rounds):
        answer = worker.ask("pack", count=3)
        packs.append(min(numbers(answer["pack"])) * 1e-9)
        copies.append(min(numbers(answer["copy"])) * 1e-9)
        peaks.append(probe.rate("fma_f64", threads=session.threads))
    opening = _opening(worker)
    close([worker, probe])
    pack, copy, peak = (Series(tuple(values)) for values in (packs, copies, peaks))
    fold = case.fold_flops / (FOLD_SHARE * peak.median * 1e9)
    return {
        "title": f"{case.kind} {case.in_dim} -> {case.out_dim}" + ("" if case.dtype == "f32" else f", {case.dtype}"),
        "bytes": int(answer["bytes"]),
        "prepare": pack.as_json(),
        "copy": copy.as_json(),
        "fold_seconds": fold,
        "fma_f64_gflops": peak.as_json(),
        "opening": opening,
        "passed": pack.median <= BAR * copy.median + fold,
    }


def run(session: Session) -> dict:
    different = {(c.kind, c.in_dim, c.out_dim): c for c in CONNECTORS}  # the input's shape does not matter here
    folded = next(case for case in CONNECTORS if case.fold_flops)
    stored = [CONNECTOR_BF16, folded.stored("bf16"), folded.stored("f16")]
    return {"rows": [measure(session, case) for case in [*different.values(), *stored]]}


def tables(results: dict) -> str:
    ms = lambda seconds: f"{1e3 * seconds:.1f}"
    rows = []
    for row in results["rows"]:
        allowed, o = BAR * row["copy"]["median"] + row["fold_seconds"], row["opening"]
        rows.append(
            [row["title"], ms(row["prepare"]["median"]), ms(row["copy"]["median"]), ms(row["fold_seconds"])]
            + [f"{row['prepare']['median'] / allowed:.2f} {mark(row['passed'])}"]
            + [f"{o['describe_bytes']:,} of {o['file_bytes']:,}", f"{o['load_bytes'] / o['file_bytes']:.3f}"]
        )
    head = ["connector", "prepare ms", "copy ms", "fold ms", "of what is allowed"]
    head += ["bytes read to describe", "bytes read to load / file"]
    note = (
        f"Allowed: {BAR} times a plain copy (new memory and memcpy, one thread) and the fold's operations at "
        f"{FOLD_SHARE:.0%} of the float64 FMA peak, in which folding sums. Medians of each round's fastest."
    )
    return markdown("Preparing and opening", head, rows, note)
