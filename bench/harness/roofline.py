# SPDX-License-Identifier: MIT
"""What each row needs at least: operations and bytes. Arithmetic, no measurement."""

from __future__ import annotations

from .cases import CONNECTOR_BF16, CONNECTORS, PRODUCTS, Connector, Product
from .report import markdown


def _connector(case: Connector) -> list[str]:
    flops, size = case.flops * 1e-9, case.bytes / 2**20
    return [case.title, f"{flops:.2f}", f"{size:.1f}", f"{case.flops / case.bytes:.3g}"]


def _product(shape: Product) -> list[str]:
    size = 4.0 * (shape.m * shape.k + shape.n * shape.k + shape.m * shape.n)
    return [shape.title, f"{shape.flops * 1e-9:.2f}", f"{size / 2**20:.1f}", f"{shape.flops / size:.3g}"]


def table() -> str:
    head = ["", "GFLOP", "MiB", "FLOP a byte"]
    connectors = [_connector(case) for case in (*CONNECTORS, CONNECTOR_BF16)]
    return markdown("Operations and bytes", head, connectors + [_product(shape) for shape in PRODUCTS])
