# SPDX-License-Identifier: MIT
"""What every experiment shares: the contenders that there are, how long to measure, the probes."""

from __future__ import annotations

import pathlib
from contextlib import ExitStack
from dataclasses import dataclass, field

from . import machine
from .environment import say
from .measures import Series
from .workers import Worker, WorkerError

WORKERS = pathlib.Path(__file__).resolve().parents[1] / "workers"
# What starts each of them.
PEERS = {
    "eager": ("torch_worker.py", "eager"),
    "compile": ("torch_worker.py", "compile"),
    "onnxruntime": ("onnx_worker.py",),
    "openvino": ("openvino_worker.py",),
}
TRAINERS = {"eager": ("torch_train_worker.py", "eager"), "compile": ("torch_train_worker.py", "compile")}
MODULES = {"module": ("module_worker.py",)}
LIBRARIES = {"openblas": ("gemm", "libopenblas.so"), "blis": ("gemm", "libblis.so"), "onednn": ("onednn",)}
LABELS = {
    "tenon": "tenon",
    "module": "tenon.torch",
    "eager": "PyTorch eager",
    "compile": "compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openblas": "OpenBLAS",
    "blis": "BLIS",
    "onednn": "oneDNN",
}


@dataclass
class Session:
    python: pathlib.Path | None  # of the contenders in Python
    build: pathlib.Path
    rounds: int
    quick: bool
    threads: int = field(default_factory=machine.cores)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    packages: pathlib.Path | None = None  # a folder that Python contenders import from

    def __post_init__(self) -> None:
        self.stack = ExitStack()
        self.level = ""

    def __enter__(self) -> Session:
        """Asks a small connector of ours for the CPU level, which the probes must have too."""
        tiny = {"type": "linear", "in": 8, "out": 8, "tokens": 1}
        with self.worker("tenon") as worker:
            self.level = worker.ask("prepare", threads=self.threads, **tiny)["level"]
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _command(self, name: str, train: bool) -> list[str | pathlib.Path]:
        peers = MODULES | (TRAINERS if train else PEERS)
        if name in peers:
            script, *words = peers[name]
            return [self.python, WORKERS / script, *words]
        program, *words = LIBRARIES.get(name, (name,))
        return [self.build / f"bench/workers/bench_{program}", *words]

    def _environment(self) -> dict[str, str]:
        """Each library's own way to say how many threads."""
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "MKL_NUM_THREADS")
        packages = {"PYTHONPATH": str(self.packages)} if self.packages else {}
        return {name: str(self.threads) for name in names} | packages

    def worker(self, name: str, train: bool = False) -> Worker:
        """A process of its own; closed with the session, or earlier by the caller."""
        return self.stack.enter_context(Worker(name, self._command(name, train), self._environment()))

    def prepared(self, name: str, **fields: object) -> Worker | None:
        """A new contender ready to run the case; None, with the reason kept, where it cannot."""
        try:
            worker = self.worker(name, "train" in fields)
        except OSError as error:
            return self._leave_out(name, str(error))
        return worker if self.prepare(worker, **fields) else None

    def prepare(self, worker: Worker, **fields: object) -> bool:
        """Gets a contender ready for another case; closes it where it cannot."""
        name = worker.name
        try:
            answer = worker.ask("prepare", threads=self.threads, **fields)
            if name in LIBRARIES:
                answer |= worker.ask("version")
            worker.calibrate()
        except WorkerError as error:
            worker.close()
            self._leave_out(name, str(error))
            return False
        self.versions[name] = answer.get("version", self.versions.get(name, ""))
        worker.facts = answer
        return True

    def _leave_out(self, name: str, reason: str) -> None:
        if name in ("tenon", "engine"):
            raise WorkerError(f"{name}: {reason}")
        if name not in self.left_out:
            say(f"{LABELS.get(name, name)} is left out: {reason}")
        self.left_out[name] = reason

    def probe(self) -> Worker:
        worker = self.worker("probe")
        worker.ask("level", name=self.level)
        return worker


def close(workers: list[Worker]) -> None:
    for worker in workers:
        worker.close()


def limit_seconds(flops: float, peak: Series) -> float:
    return flops / (peak.median * 1e9)
