# SPDX-License-Identifier: MIT
"""What type checkers are told: every public function says all its types."""

import inspect

import pytest
import tenon.convert
import tenon.plot
import tenon.torch

import tenon


def public_functions():
    for package in (tenon, tenon.torch, tenon.convert, tenon.plot):
        names = getattr(package, "__all__", [name for name in vars(package) if not name.startswith("_")])
        for name in names:
            found = getattr(package, name)
            if inspect.isfunction(found) and found.__module__.startswith("tenon"):
                yield f"{package.__name__}.{name}", found
            if inspect.isclass(found) and found.__module__.startswith("tenon."):
                for method, function in inspect.getmembers(found, inspect.isfunction):
                    ours = function.__module__.startswith("tenon.")
                    if ours and (not method.startswith("_") or method == "__init__"):
                        yield f"{package.__name__}.{name}.{method}", function


@pytest.mark.parametrize("name, function", [pytest.param(*pair, id=pair[0]) for pair in public_functions()])
def test_every_type_is_said(name, function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.name in ("self", "cls") or parameter.annotation is not inspect.Parameter.empty, parameter.name
