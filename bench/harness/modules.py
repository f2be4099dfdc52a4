# SPDX-License-Identifier: MIT
"""tenon.torch's modules beside the C library that they call, and beside plain PyTorch modules."""

from __future__ import annotations

from . import connectors, environment, inputs, training
from .cases import CONNECTORS, TRAINING, Connector
from .environment import say
from .measures import Series, in_turns
from .report import cell_ms, markdown, mark
from .session import LABELS, TRAINERS, Session, close

BAR = 1.05  # of the C library's own time
PLAIN = tuple(TRAINERS)  # PyTorch's ways to run a module


def _measure(session: Session, case: Connector, train: bool) -> dict | None:
    say(f"modules: {'training ' if train else ''}{case.title}")
    fields = case.fields() | ({"train": 1} if train else {})
    found = {name: session.prepared(name, **fields) for name in ("tenon", "module", *PLAIN)}
    workers = {name: worker for name, worker in found.items() if worker}
    if "module" not in workers:
        close(list(workers.values()))
        return None
    if train:
        reference = training.reference(session, case)
        error = training.worst_gradient(workers["module"].output(), reference, case) if reference else None
    else:
        error = connectors.check("module", workers["module"], case, inputs.reference(case))
    series = in_turns({name: worker.seconds for name, worker in workers.items()}, session.rounds)
    close(list(workers.values()))
    return _summary(case, train, series, error)


def _summary(case: Connector, train: bool, series: dict[str, Series], error: float | None) -> dict:
    over = series["module"].over(series["tenon"])
    plain = [series[name].median for name in PLAIN if name in series]
    return {
        "title": ("training " if train else "") + case.title,
        "seconds": {name: s.as_json() for name, s in series.items()},
        "over_library": over.as_json(),
        "over_plain": series["module"].median / min(plain) if plain else None,
        "error": error,
        "passed": over.median <= BAR,
    }


def run(session: Session) -> dict:
    session.packages = environment.install_package(session.python)
    rows = [_measure(session, case, False) for case in CONNECTORS]
    rows += [_measure(session, case, True) for case in TRAINING]
    return {"rows": [row for row in rows if row]}


def tables(results: dict) -> str:
    head = ["connector", "tenon (C)", "tenon.torch", *(LABELS[name] for name in PLAIN)]
    head += ["tenon.torch / C", f"bar {BAR}", "tenon.torch / best plain module", "worst error"]
    rows = []
    for row in results["rows"]:
        times = [cell_ms(row["seconds"].get(name)) for name in ("tenon", "module", *PLAIN)]
        over, plain, error = row["over_library"], row["over_plain"], row["error"]
        rows.append(
            [row["title"], *times, f"{over['median']:.3f} ({over['low']:.2f}-{over['high']:.2f})", mark(row["passed"])]
            + [f"{plain:.3f}" if plain else "-", f"{error:.1e}" if error is not None else "-"]
        )
    note = (
        "Medians in ms, the quartiles of the rounds in parentheses. Inference: in inference mode, entered once, with new "
        "memory for the tokens in every call, which the C library does not get. Training: forward and backward with all gradients, weights "
        "packed in the call; gradients are set to None before, so that plain modules have new memory for them in each step, "
        "and ours take that of the last."
    )
    return markdown("PyTorch modules", head, rows, note)
