# SPDX-License-Identifier: MIT
"""The package under test is the installed wheel, never the source tree. $TENON_SOURCE is the latter."""

import os
import pathlib
import sys

import hypothesis
import pytest

import tenon

SOURCE = pathlib.Path(os.environ.get("TENON_SOURCE", pathlib.Path(__file__).parents[2]))
assert not pathlib.Path(tenon.__file__).is_relative_to(SOURCE / "python"), "run scripts/python_test.sh"

if "TENON_TEST_NO_TABLE" in os.environ:  # as test_torch_tensors.py sets it
    import torch

    if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        del torch.Tensor.__dlpack_c_exchange_api__

# The connectors written in plain PyTorch, which the library's golden vectors are judged by too.
sys.path.append(str(SOURCE / "scripts"))

hypothesis.settings.register_profile("tenon", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("tenon")


@pytest.fixture
def command():
    """The path of the C command; tests that need it are left out where it was not built."""
    binary = os.environ.get("TENON_BIN")
    if binary is None:
        pytest.skip("build/release/bin/tenon is not there")
    return binary
