# SPDX-License-Identifier: MIT
"""Exceptions with two base classes: the one that tenon raises for a mistake at every door, and the one that PyTorch's
modules or dataclasses raise for it, which training code may catch."""


class OptionError(ValueError, TypeError):
    """A field that AdapterConfig does not have."""


class FeaturesError(ValueError, RuntimeError):
    """Features of a wrong width or dtype."""
