# SPDX-License-Identifier: MIT
"""Two threads against one, eight calls against one, and a neighbour that takes half a core."""

from __future__ import annotations

import os
import subprocess
import time

from .cases import CONNECTORS, Connector
from .environment import say
from .measures import Series, in_turns
from .report import mark, markdown
from .session import Session, close

GAIN_BAR, CALLS_BAR, CALLS_FROM_ROWS, LARGE_FLOPS = 0.95, 1.10, 196, 4e9
NOISE = 0.03  # what a comparison with an ideal, not with a measurement, may be off


def _inverse(series: Series) -> Series:
    return Series(tuple(1.0 / v for v in series.values))


def _gain(session: Session, case: Connector) -> dict:
    """One thread's time over all threads' time, and the same of multiply-adds in registers."""
    say(f"threads: {case.title}")
    worker, probe = session.prepared("tenon", **case.fields()), session.probe()
    all_threads = session.threads
    series = in_turns(
        {
            "one": lambda: worker.seconds(threads=1),
            "all": lambda: worker.seconds(threads=all_threads),
            "probe one": lambda: probe.rate("fma_f32", threads=1),
            "probe all": lambda: probe.rate("fma_f32", threads=all_threads),
        },
        session.rounds,
    )
    close([worker, probe])
    ours, machine = series["one"].over(series["all"]), series["probe all"].over(series["probe one"])
    share = ours.over(machine).median  # paired: a core that is gone for a minute is gone for both
    return {
        "title": case.title,
        "gain": ours.as_json(),
        "probe_gain": machine.as_json(),
        "share": share,
        "share_rounds": ours.over(machine).as_json(),
        "passed": share >= GAIN_BAR,
    }


def _calls(session: Session, case: Connector) -> dict:
    """Eight images in eight calls over one call with eight."""
    say(f"eight calls: {case.title}")
    fields = {**case.fields(), "batch": 8}
    worker = session.prepared("tenon", **fields)
    series = in_turns(
        {"eight": lambda: worker.seconds(batch=1, calls=8), "one": lambda: worker.seconds(batch=8, calls=1)},
        session.rounds,
    )
    worker.close()
    ratio = series["eight"].median / series["one"].median
    applies = case.out_tokens >= CALLS_FROM_ROWS
    return {
        "title": case.title.replace(f" {case.batch}x", " 8x", 1),
        "ratio": ratio,
        "ratio_rounds": series["eight"].over(series["one"]).as_json(),
        "applies": applies,
        "passed": ratio <= CALLS_BAR or not applies,
    }


class Neighbour:
    """Wants the last core for itself while it is entered; `cores` tells afterwards how much the scheduler gave it."""

    def __init__(self, session: Session):
        self.program = session.build / "bench/workers/bench_probe"
        self.cores = 0.0

    def __enter__(self) -> Neighbour:
        self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0))})
        print("spin seconds=600", file=self.process.stdin, flush=True)
        self.start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self.start
        self.process.kill()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.process.stdin.close()
        self.cores = (usage.ru_utime + usage.ru_stime) / seconds


def _neighbour(session: Session, case: Connector) -> dict:
    """The slowdown beside a neighbour, over what the part of the machine that it leaves allows."""
    say(f"a busy neighbour: {case.title}")
    worker = session.prepared("tenon", **case.fields())
    taken: list[float] = []

    def loaded() -> float:
        with Neighbour(session) as neighbour:
            seconds = worker.seconds()
        taken.append(neighbour.cores)
        return seconds

    series = in_turns({"free": worker.seconds, "loaded": loaded}, session.rounds)
    worker.close()
    slowdown = series["loaded"].over(series["free"])
    allowed = Series(tuple(session.threads / (session.threads - cores) for cores in taken))
    ratio = slowdown.over(allowed)
    return {
        "title": case.title,
        "cores_taken": Series(tuple(taken)).as_json(),
        "slowdown": slowdown.as_json(),
        "allowed": allowed.as_json(),
        "ratio": ratio.as_json(),
        "passed": ratio.median <= 1 + NOISE,
    }


def run(session: Session) -> dict:
    large = [case for case in CONNECTORS if case.flops >= LARGE_FLOPS]
    singles = [case for case in CONNECTORS if case.batch == 1]
    return {
        "gain": [_gain(session, case) for case in large],
        "calls": [_calls(session, case) for case in singles],
        "neighbour": [_neighbour(session, large[0])],
    }


def _cell(r: dict) -> str:
    return f"{r['median']:.3f} ({r['low']:.3f}-{r['high']:.3f})"


def tables(results: dict) -> str:
    gain = [
        [row["title"], _cell(row["gain"]), _cell(row["probe_gain"]), f"{row['share']:.3f}", mark(row["passed"])]
        for row in results["gain"]
    ]
    calls = [
        [row["title"], f"{row['ratio']:.3f}", _cell(row["ratio_rounds"])]
        + [mark(row["passed"]) if row["applies"] else "none"]
        for row in results["calls"]
    ]
    n = results["neighbour"][0]
    neighbour = (
        f"{n['title']} beside a process that has {n['cores_taken']['median']:.2f} of a core needs "
        f"{_cell(n['slowdown'])} times as long; what is left of the machine allows {n['allowed']['median']:.3f}. Round by "
        f"round that is a ratio of {_cell(n['ratio'])}, bar {1 + NOISE:.2f}: {mark(n['passed'])}.\n"
    )
    return "\n".join(
        [
            markdown(
                "All threads",
                ["connector", "gain over one thread", "gain of the FMA probe", "share", "bar"],
                gain,
                f"Bar: {GAIN_BAR} of the gain of multiply-adds in registers.",
            ),
            markdown(
                "Eight calls",
                ["connector", "eight calls / one call", "rounds", "bar"],
                calls,
                f"Bar {CALLS_BAR} from {CALLS_FROM_ROWS} output rows an image up.",
            ),
            "### A busy neighbour\n",
            neighbour,
        ]
    )
