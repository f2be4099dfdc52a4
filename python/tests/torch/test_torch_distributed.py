# SPDX-License-Identifier: MIT
"""Two processes on gloo: DDP, and both versions of FSDP, which fill parameters without moving a version counter."""

import pathlib
import socket
import subprocess
import sys

import pytest
import torch

if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_ranks():
    port = str(free_port())
    command = [sys.executable, pathlib.Path(__file__).with_name("ranks.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    ranks = [subprocess.Popen([*command, str(rank), port], **pipes) for rank in range(2)]
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, words in zip(ranks, said, strict=True):
        assert rank.returncode == 0 and words.endswith("done\n"), words[-3000:]
