# SPDX-License-Identifier: MIT
"""The line protocol of a contender in Python: the twin of worker.c."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.cases import Connector  # noqa: E402

Fields = dict[str, str]


class Contender:
    """A peer: `prepare` gets ready to run one case, `call` runs it once, `output` gives what it made."""

    def mode(self) -> AbstractContextManager:
        """What calls are made in. Entered once for all calls of a turn, as who runs many would."""
        return nullcontext()

    def prepare(self, case: Connector, fields: Fields) -> dict[str, Any]:
        raise NotImplementedError

    def call(self) -> None:
        raise NotImplementedError

    def output(self) -> np.ndarray:
        raise NotImplementedError


def _case(fields: Fields) -> Connector:
    number = {key: int(fields.get(key, default)) for key, default in (("window", 0), ("heads", 16), ("batch", 1))}
    return Connector(
        kind=fields["type"],
        tokens=int(fields["tokens"]),
        in_dim=int(fields["in"]),
        out_dim=int(fields["out"]),
        dtype=fields.get("dtype", "f32"),
        features=fields.get("features", "f32"),
        **number,
    )


def _times(contender: Contender, fields: Fields) -> str:
    times = []
    with contender.mode():
        for _ in range(int(fields.get("warm", 1))):
            contender.call()
        for _ in range(int(fields.get("count", 1))):
            start = time.perf_counter_ns()
            contender.call()
            times.append(time.perf_counter_ns() - start)
    return "ns=" + ",".join(map(str, times))


def _memory(contender: Contender) -> str:
    """Peak of one call beyond what was resident before it."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = lambda key: int(pathlib.Path("/proc/self/status").read_text().split(key)[1].split()[0]) * 1024
    before = status("VmRSS:")
    with contender.mode():
        contender.call()
    return f"forward_peak={status('VmHWM:') - before}"


def _answer(contender: Contender, name: str, fields: Fields) -> str:
    if name == "prepare":
        return " ".join(f"{key}={value}" for key, value in contender.prepare(_case(fields), fields).items())
    if name == "run":
        return _times(contender, fields)
    if name == "memory":
        contender.prepare(_case(fields), fields)
        return _memory(contender)
    if name == "output":
        np.ascontiguousarray(contender.output(), dtype=np.float32).tofile(fields["path"])
        return "written=1"
    raise ValueError(f"no request is called {name}")


def serve(contender: Contender) -> None:
    """Answers on what was standard output; what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, *words = line.split()
        fields = dict(word.split("=", 1) for word in words)
        try:
            answer = "ok " + _answer(contender, name, fields)
        except Exception as error:  # whatever a peer raises, the driver shall read it
            answer = f"error {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(answer, file=answers, flush=True)
