# SPDX-License-Identifier: MIT
"""The matrix engine alone against BLAS libraries and oneDNN, in turns."""

from __future__ import annotations

import numpy as np

from . import inputs
from .cases import (
    PEAK_BAR,
    PEAK_SHAPES,
    PRODUCT_BAR,
    PRODUCT_MEAN_BAR,
    PRODUCTS,
    READ_BAR,
    STORAGE_BAR,
    TOLERANCE,
    Product,
)
from .environment import say
from .measures import Series, geometric_mean, in_turns
from .report import Disagreement, mark, markdown, percent
from .session import LABELS, LIBRARIES, Session, close
from .workers import Worker

DTYPES = ("f32", "bf16", "f16")
GELU_SHAPE, GELU_BAR, GELU = "576x4096x1024", 0.04, 1
ELEMENT = {"f32": 4, "bf16": 2, "f16": 2}


def _check(name: str, worker: Worker, shape: Product, dtype: str) -> float:
    product, bias = inputs.product_reference(shape, dtype)
    expected = product + bias if worker.facts.get("bias", "1") == "1" else product
    error = inputs.worst_token(worker.output(), expected)
    if not error <= TOLERANCE["f32"]:
        raise Disagreement(f"{name} on {shape.title}: the worst row is {error:.3g} from float64")
    return error


def measure(session: Session, shape: Product) -> dict:
    say(f"engine {shape.title}")
    contenders = {dtype: session.prepared("engine", dtype=dtype, **shape.fields()) for dtype in DTYPES}
    contenders |= {name: session.prepared(name, **shape.fields()) for name in LIBRARIES}
    contenders = {name: worker for name, worker in contenders.items() if worker}
    errors = {n: _check(n, w, shape, n if n in DTYPES else "f32") for n, w in contenders.items()}
    if shape.title == GELU_SHAPE:
        contenders["gelu"] = session.prepared("engine", dtype="f32", act=GELU, **shape.fields())
    probe = session.probe()
    runners = {name: worker.seconds for name, worker in contenders.items()}
    runners["fma"] = lambda: probe.rate("fma_f32", threads=session.threads)
    if shape.is_skinny:
        runners["read"] = lambda: probe.rate("read", threads=session.threads)
    series = in_turns(runners, session.rounds)
    close([probe, *contenders.values()])
    return _summary(shape, series, errors)


def _summary(shape: Product, series: dict[str, Series], errors: dict[str, float]) -> dict:
    ours, peak = series["f32"].median, series["fma"].median
    libraries = {name: series[name].median for name in LIBRARIES if name in series}
    result = {
        "title": shape.title,
        "seconds": {name: s.as_json() for name, s in series.items() if name not in ("fma", "read")},
        "errors": errors,
        "fma_peak_gflops": series["fma"].as_json(),
        "gflops": shape.flops / ours * 1e-9,
        "share_of_peak": shape.flops / ours * 1e-9 / peak,
        "times_faster": {name: seconds / ours for name, seconds in libraries.items()},
        "storage": {dtype: series[dtype].median / ours for dtype in DTYPES},
    }
    if libraries:
        best = min(libraries, key=libraries.get)
        result["best_library"] = best
        result["times_faster_rounds"] = series[best].over(series["f32"]).as_json()
    if "gelu" in series:
        result["gelu_cost"] = float(np.median([g / f for g, f in zip(series["gelu"].values, series["f32"].values)])) - 1
    if shape.is_skinny:
        result["read_gbs"] = series["read"].as_json()
        weights = float(shape.n * shape.k)
        speeds = {d: 1e-9 * weights * ELEMENT[d] / series[d].median for d in DTYPES}
        result["weights_gbs"] = speeds
        result["share_of_reads"] = {d: speed / series["read"].median for d, speed in speeds.items()}
    return result


def run(session: Session) -> dict:
    rows = [measure(session, shape) for shape in PRODUCTS]
    best = [min(row["times_faster"].values()) for row in rows if row["times_faster"]]
    return {"rows": rows, "geometric_mean": geometric_mean(best) if best else None}


def _passed(row: dict) -> list[bool]:
    """The row's own bars: the libraries, the peak, the storage, the reads."""
    bars = [min(row["times_faster"].values(), default=9.0) >= PRODUCT_BAR]
    if row["title"] in PEAK_SHAPES:
        bars.append(row["share_of_peak"] >= PEAK_BAR)
    if "share_of_reads" in row:
        bars.append(min(row["share_of_reads"].values()) >= READ_BAR)
    else:
        bars.append(max(row["storage"].values()) <= STORAGE_BAR)
    if "gelu_cost" in row:
        bars.append(row["gelu_cost"] <= GELU_BAR)
    return bars


def _products(results: dict) -> str:
    shown = [name for name in LIBRARIES if any(name in row["times_faster"] for row in results["rows"])]
    head = ["m x n x k", "GFLOP/s", "of FMA peak", *(f"faster than {LABELS[n]}" for n in shown)]
    head += ["quartiles of the best", "bf16 time", "f16 time", "bars"]
    rows = []
    for row in results["rows"]:
        times = [f"{row['times_faster'][n]:.2f}" if n in row["times_faster"] else "-" for n in shown]
        spread = row.get("times_faster_rounds")
        rows.append(
            [row["title"], f"{row['gflops']:.0f}", percent(row["share_of_peak"]), *times]
            + [f"{spread['low']:.2f}-{spread['high']:.2f}" if spread else "-"]
            + [f"{row['storage'][d]:.2f}" for d in ("bf16", "f16")]
            + [mark(all(_passed(row)))]
        )
    mean = results["geometric_mean"]
    note = (
        f"Geometric mean over the best library of each shape: {mean:.3f} (bar {PRODUCT_MEAN_BAR}: "
        f"{mark(mean >= PRODUCT_MEAN_BAR)}). " if mean else ""
    ) + (
        "Packed f32 weights and bias; BLAS has no bias and is spared it; oneDNN has packed weights. bf16 and f16: time "
        f"over our own f32 time. Bars: each library {PRODUCT_BAR}, {PEAK_BAR:.0%} of the peak on the two largest, "
        f"storage {STORAGE_BAR} from 49 rows up, GELU {GELU_BAR:.0%} of its product at K = 1024; few rows: below."
    )
    costs = [row["gelu_cost"] for row in results["rows"] if "gelu_cost" in row]
    note += "".join(f" GELU costs {100 * cost:.1f} % of {GELU_SHAPE}." for cost in costs)
    return markdown("The engine alone", head, rows, note)


def _skinny(results: dict) -> str:
    rows = []
    for row in results["rows"]:
        if "weights_gbs" in row:
            cells = [f"{row['weights_gbs'][d]:.1f} GB/s ({percent(row['share_of_reads'][d])})" for d in DTYPES]
            rows.append([row["title"], f"{row['read_gbs']['median']:.1f} GB/s", *cells])
    note = f"Weights rotated past the caches. Share of the speed of plain reads; bar {percent(READ_BAR)} for each."
    return markdown("One to four rows", ["m x n x k", "plain reads", *DTYPES], rows, note)


def tables(results: dict) -> str:
    return _products(results) + "\n" + _skinny(results)
