# SPDX-License-Identifier: MIT
"""Whole connectors, ours and the peers' in turns."""

from __future__ import annotations

from collections.abc import Iterable

from . import inputs
from .cases import CONNECTOR_BF16, CONNECTORS, NEAR_LIMIT, STORAGE_BAR, TOLERANCE, Connector
from .environment import say
from .measures import Series, in_turns
from .report import Disagreement, cell_ms, mark_ratio, markdown, percent
from .session import LABELS, PEERS, Session, close, limit_seconds
from .workers import Worker


def check(name: str, worker: Worker, case: Connector, reference) -> float:
    """The worst token's relative error; Disagreement when it is past the tolerance."""
    error = inputs.worst_token(worker.output(), reference)
    if not error <= TOLERANCE["f32" if name in ("tenon", "module") else case.dtype]:
        raise Disagreement(f"{name} on {case.title}: the worst token is {error:.3g} from float64")
    return error


def _stored(session: Session, case: Connector) -> dict[str, Worker]:
    """Ours with weights and features of half the width."""
    if case.dtype != "f32":
        return {}
    workers = {}
    for dtype in ("bf16", "f16"):
        narrow = case.stored(dtype)
        workers[dtype] = session.prepared("tenon", **narrow.fields())
        check("tenon", workers[dtype], narrow, inputs.reference(narrow))
    return workers


def _contenders(session: Session, case: Connector) -> dict[str, Worker]:
    peers = PEERS if case.dtype == "f32" else ("eager",)
    found = {name: session.prepared(name, **case.fields()) for name in ("tenon", *peers)}
    return {name: worker for name, worker in found.items() if worker}


def measure(session: Session, case: Connector) -> dict:
    say(case.title)
    contenders = _contenders(session, case)
    probe = session.probe()
    reference = inputs.reference(case)
    errors = {name: check(name, worker, case, reference) for name, worker in contenders.items()}
    contenders |= _stored(session, case)
    runners = {name: worker.seconds for name, worker in contenders.items()}
    series = in_turns(runners | {"probe": lambda: probe.rate("fma_f32", threads=session.threads)}, session.rounds)
    close([probe, *contenders.values()])
    return _summary(case, series, errors)


def summary(
    case: Connector,
    series: dict[str, Series],
    errors: dict[str, float],
    flops: float,
    peers: Iterable[str],
    near: float,
) -> dict:
    """A row of a table: ours beside the limit of `flops` and beside the best of `peers`; within `near` of the limit it
    passes whatever they do. Takes the probe out of `series`."""
    peak, ours = series.pop("probe"), series["tenon"]
    limit = limit_seconds(flops, peak)
    measured = {name: series[name] for name in peers if name in series}
    best = min(measured, key=lambda name: measured[name].median) if measured else None
    result = {
        "title": case.title,
        "bar": case.bar,
        "fma_peak_gflops": peak.as_json(),
        "limit_ms": limit * 1e3,
        "seconds": {name: s.as_json() for name, s in series.items()},
        "errors": errors,
        "share_of_limit": limit / ours.median,
        "best_peer": best,
    }
    if best:
        result["ratio"] = ours.median / measured[best].median
        result["ratio_rounds"] = ours.over(measured[best]).as_json()
    result["passed"] = ours.median <= near * limit or bool(best and result["ratio"] <= case.bar)
    return result


def _summary(case: Connector, series: dict[str, Series], errors: dict[str, float]) -> dict:
    result = summary(case, series, errors, flops=case.flops, peers=PEERS, near=NEAR_LIMIT)
    ours = series["tenon"]
    storage = {d: series[d].median / ours.median for d in ("bf16", "f16") if d in series}
    return result | {"flops": case.flops, "bytes": case.bytes, "storage": storage}


def run(session: Session) -> dict:
    cases = [*CONNECTORS, CONNECTOR_BF16]
    return {"rows": [measure(session, case) for case in cases]}


def tables(results: dict) -> str:
    shown = [name for name in PEERS if any(name in row["seconds"] for row in results["rows"])]
    head = ["connector", "tenon", *(LABELS[name] for name in shown), "limit", "share of limit"]
    head += ["ours / best peer", "bar", "bf16, f16 / f32", "worst error"]
    rows = []
    for row in results["rows"]:
        times = [cell_ms(row["seconds"].get(name)) for name in ("tenon", *shown)]
        ratio = row.get("ratio_rounds")
        text = f"{row['ratio']:.3f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
        storage = ", ".join(f"{ratio:.2f}" for ratio in row["storage"].values()) or "-"
        rows.append(
            [row["title"], *times, f"{row['limit_ms']:.1f}", percent(row["share_of_limit"]), text]
            + [f"{row['bar']:.2f} {mark_ratio(row['passed'], row.get('ratio'), row['bar'])}", storage]
            + [f"{row['errors']['tenon']:.1e}"]
        )
    note = (
        "Medians in ms, the quartiles of the rounds in parentheses. The limit is the connector's necessary operations "
        f"at the FMA peak of the same rounds; a row within {NEAR_LIMIT} of it passes: where it misses its bar it is "
        "marked as at the limit, and where a peer is faster as behind. bf16 and "
        f"f16: our time with weights and features stored so, over our f32 time (bar {STORAGE_BAR} from 49 output rows "
        "up). The error is ours against float64, the worst token's; every contender was within "
        f"{TOLERANCE['f32']:g} (bf16: {TOLERANCE['bf16']:g}), else there would be no table."
    )
    return markdown("Whole connectors", head, rows, note)
