"""Tests of tenon.torch. Judged by PyTorch: scripts/torch_connectors.py has the connectors as anyone would write them."""

import pathlib
import sys

import pytest

pytest.importorskip("torch")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "scripts"))
