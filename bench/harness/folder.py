# SPDX-License-Identifier: MIT
"""`tenon run` over a folder of shards against the forward alone."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tempfile
import time

import numpy as np

from . import inputs
from .cases import CONNECTORS, Connector
from .environment import CACHE, say
from .measures import Series, in_turns
from .report import mark, markdown
from .session import Session
from .workers import WorkerError

BAR = 0.90
FEW = 4  # shards that touch all memory a run has: the difference to a longer run has no start in it


def _command(session: Session) -> pathlib.Path | None:
    path = session.build / "bin/tenon"
    return path if path.exists() else None


def _features(folder: pathlib.Path, case: Connector, shards: int) -> None:
    folder.mkdir()
    x = inputs.features(case)
    for i in range(shards):
        np.save(folder / f"shard-{i:03}.npy", x)


def _seconds(command: pathlib.Path, model: pathlib.Path, features: pathlib.Path, tokens: pathlib.Path) -> float:
    start = time.perf_counter()
    done = subprocess.run([command, "run", model, features, "-o", tokens], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise WorkerError(done.stderr.strip()[:300])
    shutil.rmtree(tokens)
    return seconds


def _more_shards(seconds: float) -> int:
    """About a second's worth."""
    return max(6, min(24, int(1 / seconds)))


def measure(session: Session, case: Connector, command: pathlib.Path) -> dict:
    say(f"folder: {case.title}")
    worker = session.prepared("tenon", **case.fields())
    counts = (FEW, FEW + _more_shards(worker.seconds()))
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = pathlib.Path(name)
        model = folder / "adapter.safetensors"
        worker.ask("save", path=model)
        for shards in counts:
            _features(folder / f"in-{shards}", case, shards)
        runners = {
            f"{shards} shards": lambda n=shards: _seconds(command, model, folder / f"in-{n}", folder / "out")
            for shards in counts
        }
        series = in_turns(runners | {"forward": worker.seconds}, session.rounds)
    worker.close()
    few, many = (series[f"{shards} shards"] for shards in counts)
    images = case.batch * (counts[1] - counts[0])
    rate = Series(tuple(images / (m - f) for f, m in zip(few.values, many.values, strict=True)))
    alone = Series(tuple(case.batch / s for s in series["forward"].values))
    share = rate.over(alone)
    return {
        "title": case.title,
        "shards": counts[1],
        "images_per_second": rate.as_json(),
        "forward_images_per_second": alone.as_json(),
        "whole_run_images_per_second": case.batch * counts[1] / many.median,
        "share": share.as_json(),
        "passed": share.median >= BAR,
    }


def run(session: Session) -> dict:
    command = _command(session)
    if command is None:
        say("this build has no tenon command: no folder run")
        return {"rows": []}
    wanted = [case for case in CONNECTORS if case.batch > 1 and case.out_dim == 4096]
    mlp = Connector("mlp_2layer", 4, 576, 1024, 4096)
    return {"rows": [measure(session, case, command) for case in [*wanted, mlp]]}


def _spread(share: dict) -> str:
    return f"{share['median']:.2f} ({share['low']:.2f}-{share['high']:.2f})"


def tables(results: dict) -> str:
    rows = [
        [row["title"], str(row["shards"])]
        + [f"{row[rate]['median']:.1f}" for rate in ("images_per_second", "forward_images_per_second")]
        + [f"{_spread(row['share'])} {mark(row['passed'])}", f"{row['whole_run_images_per_second']:.1f}"]
        for row in results["rows"]
    ]
    head = ["a shard", "shards", "images/s", "forward alone, images/s", "share", "start included, images/s"]
    note = (
        f"`tenon run` over so many npy shards less the same over {FEW}, on the disk of the cache folder, "
        f"against the forward alone in memory, round by round, the quartiles in parentheses. Bar {BAR}."
    )
    return markdown("A folder of shards", head, rows, note) if rows else ""
