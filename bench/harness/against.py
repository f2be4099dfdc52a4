# SPDX-License-Identifier: MIT
"""Our own earlier code as the contender: `run.py --against COMMIT` builds it, and old and new run in turns.

Each commit is measured by its own worker programs, which know what options and structs were called then. Both must
understand the requests of bench/workers/worker.h, which keep their meaning. A row that the old commit cannot run is left
out, with the reason.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import environment, inputs, machine
from .cases import CONNECTOR_BF16, CONNECTORS, PRODUCTS, TOLERANCE, TRAINING, Connector
from .environment import BUILD, CACHE, ROOT, say
from .measures import Series, geometric_mean, in_turns
from .report import Disagreement, cell_ms, mark, markdown
from .session import Session, close
from .training import worst_gradient
from .workers import Worker, WorkerError

MEAN_BAR, ROW_BAR = 1.005, 1.02
# Pairs of new processes within the rounds: to some rows it is worth a per cent where a process lies in memory.
STARTS = 3
PROGRAMS = ("bench_tenon", "bench_engine")


@dataclass(frozen=True)
class Row:
    title: str
    worker: str  # as Session.worker names it
    fields: dict
    error: Callable[[np.ndarray, np.ndarray], float]  # of the new result against the old one


def _tokens(width: int) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda new, old: inputs.worst_token(new, old.reshape(-1, width))


def _gradients(case: Connector) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda new, old: worst_gradient(new, inputs.split_gradients(old, case), case)


def rows(section: str) -> list[Row]:
    """What a section measures of ours alone."""
    if section == "engine":
        return [Row(f"engine {p.title}", "engine", {"dtype": "f32", **p.fields()}, _tokens(p.n)) for p in PRODUCTS]
    if section == "training":
        return [Row(f"training {c.title}", "tenon", {"train": 1, **c.fields()}, _gradients(c)) for c in TRAINING]
    return [Row(c.title, "tenon", c.fields(), _tokens(c.out_dim)) for c in (*CONNECTORS, CONNECTOR_BF16)]


def resolve(name: str) -> str:
    """A commit's full hash."""
    words = ["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: there is no commit '{name}' in {ROOT}")
    return done.stdout.strip()


def unpack(commit: str) -> pathlib.Path:
    """The commit's files in the cache folder, without touching the repository. A commit never changes: once is enough."""
    source = CACHE / "against" / commit[:12] / "source"
    if not source.exists():
        partial = source.with_name("unpacking")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        archive = subprocess.run(["git", "-C", ROOT, "archive", commit], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", partial], check=True, input=archive.stdout)
        partial.rename(source)
    return source


def build(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The worker programs of a source tree."""
    if not (source / "bench/workers/tenon.c").exists():
        raise SystemExit(f"bench: {source} has no bench/workers, the programs that are measured; name a later commit")
    try:
        return environment.build(source, folder, PROGRAMS)
    except subprocess.CalledProcessError:
        raise SystemExit(f"bench: cannot build {source}; its compiler's words are above") from None


def _same(row: Row, old: Worker, new: Worker) -> bool:
    """Whether the results have the same bits; Disagreement where they are not the same numbers."""
    was, now = old.output(), new.output()
    if was.size != now.size:
        raise WorkerError(f"the old result has {was.size} numbers, the new one {now.size}")
    if was.tobytes() == now.tobytes():
        return True
    error = row.error(now, was)
    if not error <= TOLERANCE["f32"]:
        raise Disagreement(f"{row.title}: old and new are {error:.3g} apart")
    return False


def measure(sessions: dict[str, Session], row: Row, rounds: int) -> dict:
    """Times of the old and the new in turns, by STARTS pairs of processes one after another."""
    say(row.title)
    values: dict[str, list[float]] = {"old": [], "new": []}
    starts = min(STARTS, rounds)
    same = True
    for start in range(starts):
        workers = {name: sessions[name].prepared(row.worker, **row.fields) for name in values}
        same = same and (start > 0 or _same(row, workers["old"], workers["new"]))
        names = sorted(values, reverse=start % 2 == 1)
        turns = (start + 1) * rounds // starts - start * rounds // starts
        series = in_turns({name: workers[name].seconds for name in names}, turns)
        for name in values:
            values[name] += series[name].values
        close(list(workers.values()))
    old, new = (Series(tuple(values[name])) for name in ("old", "new"))
    return {
        "title": row.title,
        "old": old.as_json(),
        "new": new.as_json(),
        "ratio": new.median / old.median,
        "ratio_rounds": new.over(old).as_json(),
        "same": same,
    }


def table(results: list[dict]) -> str:
    head = ["row", "old ms", "new ms", "new / old", "quartiles", "bits", f"bar {ROW_BAR}"]
    cells = [
        [row["title"], cell_ms(row["old"]), cell_ms(row["new"]), f"{row['ratio']:.3f}"]
        + [f"{row['ratio_rounds']['low']:.3f}-{row['ratio_rounds']['high']:.3f}"]
        + ["the same" if row["same"] else "others", mark(row["ratio"] <= ROW_BAR)]
        for row in results
    ]
    note = (
        "Medians in ms, the quartiles of the rounds in parentheses. New / old: the medians' ratio; its quartiles are of the "
        "ratios round by round."
    )
    return markdown("New against old", head, cells, note)


def verdict(results: list[dict]) -> tuple[bool, str]:
    """Whether no speed was lost, and a sentence."""
    mean = geometric_mean([row["ratio"] for row in results])
    worst = max(results, key=lambda row: row["ratio"])
    passed = mean <= MEAN_BAR and worst["ratio"] <= ROW_BAR
    return passed, (
        f"Geometric mean {mean:.4f} (bar {MEAN_BAR}: {mark(mean <= MEAN_BAR)}); worst row {worst['ratio']:.3f}, "
        f"{worst['title']} (bar {ROW_BAR}: {mark(worst['ratio'] <= ROW_BAR)})."
    )


def _heading(commit: str, sessions: dict[str, Session], noise: machine.Noise, rounds: int) -> str:
    levels = {name: session.level for name, session in sessions.items()}
    level = levels["new"] if levels["old"] == levels["new"] else f"{levels['old']} (old) and {levels['new']} (new)"
    facts, busy = machine.describe(), noise.as_json()
    return (
        f"{facts['cpu']}, {facts['cores']} cores, level {level}; old {commit[:12]}, new {machine.commit()}; {facts['compiler']}; "
        f"{rounds} rounds by {min(STARTS, rounds)} pairs of processes; {busy['date']}, load {busy['load_at_start']:.2f} at the "
        f"start, {busy['stolen']:.1%} of the time stolen by the host.\n"
    )


def _measure_all(sessions: dict[str, Session], wanted: list[Row], rounds: int) -> list[dict]:
    results = []
    for row in wanted:
        try:
            results.append(measure(sessions, row, rounds))
        except WorkerError as error:
            say(f"left out: {row.title}: {error}")
    return results


def run(options: argparse.Namespace) -> int:
    """0 when the bars are met; 1 when they are missed, which three rounds (--quick) cannot tell."""
    commit = resolve(options.against)
    folders = {"old": build(unpack(commit), CACHE / "against" / commit[:12] / "build"), "new": options.build}
    folders["new"] = folders["new"] or build(ROOT, BUILD)
    rounds = options.repeat or (3 if options.quick else 15)
    noise = machine.Noise()
    wanted = [row for section in options.sections for row in rows(section)]
    with Session(None, folders["old"], rounds, options.quick) as old:
        with Session(None, folders["new"], rounds, options.quick) as new:
            sessions = {"old": old, "new": new}
            results = _measure_all(sessions, wanted, rounds)
    if not results:
        say("no row could be measured")
        return 1
    print(_heading(commit, sessions, noise, rounds), table(results), sep="\n")
    passed, sentence = verdict(results)
    print(sentence + (" Three rounds show that it works, no more." if options.quick else ""), flush=True)
    return 0 if passed or options.quick else 1
