# SPDX-License-Identifier: MIT
"""Runs the sections and reports."""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys

from . import chart, machine, report, roofline
from .environment import CACHE, ROOT, say
from .session import LABELS, Session

QUIET_LOAD = 0.3


def _probes(session: Session) -> dict:
    probe = session.probe()
    rates = {}
    for kind in ("fma_f32", "fma_f64", "read"):
        for threads in {1, session.threads}:
            rates[f"{kind} {threads}"] = probe.rate(kind, threads=threads)
    probe.close()
    return rates


def _heading(document: dict) -> str:
    sections = document["sections"].values()
    commits = ", ".join(sorted({section["commit"] for section in sections}))
    dates = sorted({section["noise"]["date"] for section in sections})
    stolen = max(section["noise"]["stolen"] for section in sections)
    load = max(section["noise"]["load_at_start"] for section in sections)
    m, versions = document["machine"], document["versions"]
    names = {"eager": "PyTorch", **LABELS}
    peers = ", ".join(f"{names[n]} {v}" for n, v in sorted(versions.items()) if v and n not in ("tenon", "compile"))
    peaks = [section["probes"] for section in sections]
    low, high = (pick(p[f"fma_f32 {m['cores']}"] for p in peaks) for pick in (min, max))
    reads = [p[f"read {m['cores']}"] for p in peaks]
    return (
        f"{m['cpu']}, {m['cores']} cores, level {document['level']}; tenon {commits} ({m['compiler']}); "
        f"{peers}. Measured {dates[0]} to {dates[-1]}. Between the sections the FMA peak was {low:.0f} to "
        f"{high:.0f} GFLOP/s, and plain reads {min(reads):.1f} to {max(reads):.1f} GB/s; "
        f"load {load:.2f} at most before a section, {stolen:.1%} of the time stolen by the host.\n"
    )


def _warn(noise: machine.Noise) -> None:
    if noise.load > QUIET_LOAD * machine.cores():
        say(f"the machine is busy (load {noise.load:.1f}): these figures compare only with each other")


def _path(options: argparse.Namespace) -> pathlib.Path:
    name = machine.slug(f"{machine.cpu_model()} {machine.cores()} cores") + ".json"
    return CACHE / "bench-quick" / name if options.quick else ROOT / "bench/results" / name


def _measure(options: argparse.Namespace, session: Session) -> dict:
    sections = {}
    for name in options.sections:
        noise = machine.Noise()
        _warn(noise)
        section = importlib.import_module(f".{name}", __package__)
        results = section.run(session)
        print(section.tables(results), flush=True)
        sections[name] = {
            "commit": machine.commit(),
            "rounds": session.rounds,
            "noise": noise.as_json(),
            "probes": _probes(session),
            "left_out": dict(session.left_out),
            "results": results,
        }
    return sections


def fragment(document: dict) -> str:
    """All sections of a results file as markdown."""
    parts = [_heading(document)]
    for name, section in document["sections"].items():
        parts.append(importlib.import_module(f".{name}", __package__).tables(section["results"]))
    left_out: dict[str, str] = {}
    for section in document["sections"].values():
        left_out |= section["left_out"]
    for name, reason in left_out.items():
        parts.append(f"Left out: {LABELS.get(name, name)} ({reason}).\n")
    return "\n".join(parts)


def run(options: argparse.Namespace) -> int:
    rounds = options.repeat or (3 if options.quick else 15)
    with Session(pathlib.Path(sys.executable), options.build, rounds, options.quick) as session:
        sections = _measure(options, session)
        document = {
            "machine": machine.describe(),
            "level": session.level,
            "quick": options.quick,
            "versions": session.versions,
            "sections": sections,
        }
    path = _path(options)
    report.write_json(path, document)
    say(f"written: {path}")
    return write_docs(options) if options.write_docs else 0


def write_docs(options: argparse.Namespace) -> int:
    """The kept results of this machine, as tables of docs/performance.md and as README.md's chart."""
    path = _path(options)
    chart.write(path)
    report.write_docs({"bench": fragment(json.loads(path.read_text())), "roofline": roofline.table()})
    say(f"{path.name} is in {report.DOCS}")
    return 0
