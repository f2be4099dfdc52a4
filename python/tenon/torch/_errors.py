# SPDX-License-Identifier: MIT
"""Exceptions that are two things at once: what tenon raises for this mistake everywhere, and what PyTorch's modules and
dataclasses raise for it, which training code may catch already."""


class OptionError(ValueError, TypeError):
    """A setting that does not exist."""


class FeaturesError(ValueError, RuntimeError):
    """Features of a width or dtype that the module cannot take."""
