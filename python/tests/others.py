# SPDX-License-Identifier: MIT
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
    """The module; a stand-in where $TENON_ABSENT, a list of words, has its package (scripts/python_test_arm64.sh)."""
    absent = name.partition(".")[0] in os.environ.get("TENON_ABSENT", "").split()
    return Absent(name) if absent else importlib.import_module(name)
