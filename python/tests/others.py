"""Packages whose arrays the tests hand over, or that judge our values, beside NumPy."""

import importlib
import os

import pytest


class Absent:
    """A test that gets to it ends there, as skipped."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("_"):  # pytest asks every name of a module
            raise AttributeError(attribute)
        pytest.skip(f"{self._name} is left out")


def other(name):
    """The module; a stand-in where $TENON_NUMPY_ONLY says that there is NumPy alone (scripts/python_test_arm64.sh)."""
    return Absent(name) if os.environ.get("TENON_NUMPY_ONLY") else importlib.import_module(name)
