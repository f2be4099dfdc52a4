# SPDX-License-Identifier: MIT
"""What machine this is, and how quiet it was."""

from __future__ import annotations

import datetime
import os
import pathlib
import platform
import re
import subprocess

from .environment import ROOT


def cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "Processor")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def describe() -> dict:
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "compiler": subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.split("\n")[0],
    }


def _ticks() -> tuple[int, int]:
    """All and stolen clock ticks of all cores since the machine started."""
    fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(fields), fields[7]


class Noise:
    """Watches what else the machine did."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        self.start = _ticks()
        self.date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")

    def as_json(self) -> dict:
        total, stolen = (now - then for now, then in zip(_ticks(), self.start, strict=True))
        return {"date": self.date, "load_at_start": self.load, "stolen": stolen / max(1, total)}
