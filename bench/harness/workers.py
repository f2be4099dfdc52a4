# SPDX-License-Identifier: MIT
"""A contender: a process of its own that answers a request a line, and stands still (SIGSTOP) while others run."""

from __future__ import annotations

import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence

import numpy as np

TURN_SECONDS = 0.12  # a contender's turn lasts about that long, or one repetition
WARM_SECONDS = 0.01


class WorkerError(Exception):
    """What a contender said it cannot do, or that it died."""


def parse_answer(line: str) -> dict[str, str]:
    """'ok a=1 b=2' as a dict; WorkerError for 'error SENTENCE'."""
    kind, _, rest = line.strip().partition(" ")
    if kind == "error":
        raise WorkerError(rest)
    if kind != "ok":
        raise WorkerError(f"an answer that is none: {line.strip()[:200]!r}")
    return dict(word.split("=", 1) for word in rest.split() if "=" in word)


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _state(pid: int) -> str:
    """R, S, T, ... of a process; the name before it may hold blanks and parentheses."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


class Worker:
    """Use as a context manager; the process is stopped between requests."""

    def __init__(self, name: str, command: Sequence[str | os.PathLike], environment: dict[str, str] | None = None):
        self.name = name
        self.estimate = 0.0  # seconds of one repetition
        self.facts: dict[str, str] = {}  # the answer to `prepare`
        self._errors = tempfile.TemporaryFile(mode="w+")
        self._process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait()
        self._errors.close()

    def ask(self, request: str, /, **fields: object) -> dict[str, str]:
        """Wakes the process, sends the request, waits for the answer and stops the process again."""
        words = [request] + [f"{key}={value}" for key, value in fields.items() if value is not None]
        try:
            self._process.send_signal(signal.SIGCONT)
            print(*words, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise WorkerError(f"{self.name} ended: {self._last_words()}")
        self._stop()
        return parse_answer(line)

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        for _ in range(1000):
            if self._process.poll() is not None or _state(self._process.pid) in "Tt":
                return
            time.sleep(0.0005)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.poll()}"

    def calibrate(self, **fields: object) -> None:
        """Finds how long one repetition takes, so that turns have the same length."""
        self.ask("run", warm=1, count=1, **fields)
        self.estimate = min(numbers(self.ask("run", warm=0, count=2, **fields)["ns"])) * 1e-9

    def seconds(self, **fields: object) -> float:
        """The median of one turn's repetitions, after a warm-up."""
        count = max(1, min(200, round(TURN_SECONDS / max(self.estimate, 1e-6))))
        warm = max(1, min(200, round(WARM_SECONDS / max(self.estimate, 1e-6))))
        return statistics.median(numbers(self.ask("run", warm=warm, count=count, **fields)["ns"])) * 1e-9

    def rate(self, kind: str, **fields: object) -> float:
        """Of a probe: GFLOP/s or GB/s."""
        return statistics.median(numbers(self.ask("run", kind=kind, warm=1, count=5, **fields)["rate"]))

    def output(self, dtype: str = "float32") -> np.ndarray:
        """The contender's result, flat."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "output"
            self.ask("output", path=path)
            return np.fromfile(path, dtype=dtype)
