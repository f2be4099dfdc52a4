# SPDX-License-Identifier: MIT
"""Memory beyond one packed copy of the weights, and time per frame, as the batch grows."""

from __future__ import annotations

from .cases import Connector
from .environment import say
from .measures import Series, in_turns
from .report import mark, markdown, mib
from .session import Session
from .workers import WorkerError

BAR_BYTES = 64 * 2**20
BAR_TIME = 1.03


def video(frames: int) -> Connector:
    return Connector("mlp_2layer", frames, 729, 1152, 4096)


def _peaks(session: Session, frames: int) -> dict:
    """A fresh process for each count, so that no earlier peak hides this one."""
    case = video(frames)
    say(f"memory at {frames} frames")
    row = {"frames": frames}
    with session.worker("tenon") as worker:
        answer = worker.ask("memory", threads=session.threads, **case.fields())
        peak = max(int(answer["prepare_peak"]), int(answer["forward_peak"]))
        row |= {"weights": int(answer["weights"]), "extra": peak - int(answer["weights"])}
    try:
        with session.worker("eager") as worker:
            row["eager"] = int(worker.ask("memory", threads=session.threads, **case.fields())["forward_peak"])
    except (WorkerError, OSError) as error:
        session.left_out.setdefault("eager", str(error))
    return row


def _times(session: Session, many: int, few: int) -> dict:
    """Calls of few frames around each call of many, in one process."""
    say(f"time of a frame at {many} and {few} frames")
    worker = session.worker("tenon")
    worker.ask("prepare", threads=session.threads, **video(many).fields())
    worker.ask("run", warm=1, count=1, batch=few)
    one = lambda batch: float(worker.ask("run", warm=0, count=1, batch=batch)["ns"]) * 1e-9 / batch
    few_calls = lambda: sum(one(few) for _ in range(many // few // 2)) / (many // few // 2)
    runners = {"before": few_calls, "many": lambda: one(many), "after": few_calls}
    series = in_turns(runners, max(3, session.rounds // 4))
    worker.close()
    both = [(a + b) / 2 for a, b in zip(series["before"].values, series["after"].values, strict=True)]
    ratios = Series(tuple(m / f for m, f in zip(series["many"].values, both, strict=True)))
    return {"many": many, "few": few, "seconds_per_frame": series["many"].as_json(), "ratio": ratios.as_json()}


def run(session: Session) -> dict:
    counts = (16, 32) if session.quick else (16, 128)
    return {"rows": [_peaks(session, frames) for frames in counts], "time": _times(session, counts[-1], 8)}


def tables(results: dict) -> str:
    rows = [
        [f"{row['frames']}", mib(row["extra"]), mark(row["extra"] < BAR_BYTES)]
        + [mib(row["eager"]) if "eager" in row else "-"]
        for row in results["rows"]
    ]
    t = results["time"]
    note = (
        "`mlp_2layer`, frames of 729 x 1152 to 4096, f32. Peak resident memory beyond features, tokens, the caller's "
        "weights and one packed copy of them, over prepare and one forward with its workspace; PyTorch's is its "
        f"forward alone. Bar {mib(BAR_BYTES)}. Time of a frame at {t['many']} frames over that at {t['few']}: "
        f"{t['ratio']['median']:.3f} ({t['ratio']['low']:.3f}-{t['ratio']['high']:.3f}), bar {BAR_TIME}: "
        f"{mark(t['ratio']['median'] <= BAR_TIME)}."
    )
    return markdown("Memory", ["frames", "tenon", "bar", "PyTorch eager"], rows, note)
