# SPDX-License-Identifier: MIT
"""Training steps, ours and PyTorch's in turns: gradients zeroed, weights repacked, forward, backward with all gradients."""

from __future__ import annotations

import math

import numpy as np

from . import inputs
from .cases import NEAR_TRAINING_LIMIT, TOLERANCE, TRAINING, Connector
from .connectors import summary
from .environment import say
from .measures import Series, in_turns
from .report import Disagreement, cell_ms, mark_ratio, markdown, percent
from .session import LABELS, TRAINERS, Session, close
from .workers import Worker

SILENT = "k_proj.bias"  # its gradient is zero but for rounding


def worst_gradient(flat: np.ndarray, reference: dict[str, np.ndarray], case: Connector) -> float:
    """Largest ||g - ref|| / ||ref|| of a tensor; infinite where g is not finite."""
    worst = 0.0
    for name, g in inputs.split_gradients(flat, case).items():
        ref = reference[name].astype(np.float64)
        size = np.linalg.norm(reference["q_proj.bias"]) if name == SILENT else np.linalg.norm(ref)
        error = float(np.linalg.norm(g - ref) / size)
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def reference(session: Session, case: Connector) -> dict[str, np.ndarray] | None:
    """PyTorch's gradients in float64."""
    worker = session.prepared("eager", train=1, compute="f64", **case.fields())
    if worker is None:
        return None
    flat = worker.output()
    worker.close()
    return inputs.split_gradients(flat, case)


def _contenders(session: Session, case: Connector) -> dict[str, Worker]:
    found = {"tenon": session.prepared("tenon", train=1, **case.fields())}
    found["recompute"] = session.prepared("tenon", train=1, recompute=1, **case.fields())
    found |= {name: session.prepared(name, train=1, **case.fields()) for name in TRAINERS}
    return {name: worker for name, worker in found.items() if worker}


def _check(contenders: dict[str, Worker], reference: dict[str, np.ndarray], case: Connector) -> dict[str, float]:
    errors = {name: worst_gradient(worker.output(), reference, case) for name, worker in contenders.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE["f32"]:
            raise Disagreement(f"{name} training {case.title}: a gradient is {error:.3g} from float64")
    return errors


def measure(session: Session, case: Connector) -> dict:
    say(f"training {case.title}")
    wanted = reference(session, case)
    contenders = _contenders(session, case)
    errors = _check(contenders, wanted, case) if wanted else {}
    probe = session.probe()
    runners = {name: worker.seconds for name, worker in contenders.items()}
    series = in_turns(runners | {"probe": lambda: probe.rate("fma_f32", threads=session.threads)}, session.rounds)
    close([probe, *contenders.values()])
    return _summary(case, series, errors)


def _summary(case: Connector, series: dict[str, Series], errors: dict[str, float]) -> dict:
    # a product of the forward pass has two in the backward pass
    return summary(case, series, errors, flops=3 * case.flops, peers=TRAINERS, near=NEAR_TRAINING_LIMIT)


def run(session: Session) -> dict:
    return {"rows": [measure(session, case) for case in TRAINING]}


def tables(results: dict) -> str:
    head = ["connector", "tenon", "recomputing", *(LABELS[name] for name in TRAINERS), "limit", "share of limit"]
    head += ["ours / best peer", "bar", "worst error"]
    rows = []
    for row in results["rows"]:
        times = [cell_ms(row["seconds"].get(name)) for name in ("tenon", "recompute", *TRAINERS)]
        ratio = row.get("ratio_rounds")
        text = f"{row['ratio']:.3f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
        error = f"{row['errors']['tenon']:.1e}" if row["errors"] else "-"
        rows.append(
            [row["title"], *times, f"{row['limit_ms']:.1f}", percent(row["share_of_limit"]), text]
            + [f"{row['bar']:.2f} {mark_ratio(row['passed'], row.get('ratio'), row['bar'])}", error]
        )
    note = (
        "One training step: gradients zeroed, weights packed again, forward, backward to all weights and the features. "
        "Medians in ms, the quartiles of the rounds in parentheses. The limit is three times the operations of the "
        f"folded forward pass at the FMA peak of the same rounds; a row within {NEAR_TRAINING_LIMIT} of it passes "
        "whatever the peers do. Recomputing: ours when forward keeps nothing. PyTorch sets its gradients to None. The "
        "error is ours against PyTorch in float64, the worst gradient's, k_proj.bias measured by q_proj.bias."
    )
    return markdown("Training steps", head, rows, note)
