# SPDX-License-Identifier: MIT
"""The command that the wheel brings, by itself and as ``python -m tenon``; and what pip says where it cannot be built."""

import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import time

import numpy as np
import pytest

import tenon
import tenon.__main__

COMMAND = pathlib.Path(sysconfig.get_path("scripts")) / "tenon"
MODULE = [sys.executable, "-m", "tenon"]


@pytest.fixture
def folder(tmp_path):
    tenon.build_adapter(tenon.Config("avgpool", pool_window=3), 8, 6, seed=1).save(tmp_path / "adapter.safetensors")
    np.save(tmp_path / "features.npy", np.ones((2, 81, 8), np.float32))
    return tmp_path


def test_it_is_the_program_beside_the_interpreter():
    assert COMMAND.read_bytes()[:4] == b"\x7fELF" and os.access(COMMAND, os.X_OK)
    assert tenon.__main__.find_command() == COMMAND.resolve()
    said = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"tenon {tenon.__version__} (library {tenon.__version__})\n")


@pytest.mark.parametrize(
    "words, code",
    [
        (["tokens", "--type", "avgpool", "--window", "3", "729"], 0),
        (["run", "adapter.safetensors", "features.npy", "-o", "tokens.npy"], 0),
        (["inspect", "adapter.safetensors", "--json"], 0),
        (["inspect", "absent.safetensors"], 1),
        (["tokens", "--frobnicate"], 2),
        ([], 2),
    ],
)
def test_the_module_is_the_same_program(folder, words, code):
    results = [subprocess.run([*by, *words], capture_output=True, text=True, cwd=folder) for by in ([COMMAND], MODULE)]
    for result in results:
        assert result.returncode == code, result.stderr
    if words[:1] != ["run"]:  # which tells its times
        assert results[0].stdout == results[1].stdout and results[0].stderr == results[1].stderr


def endless(by, folder):
    """Starts a run that lasts for minutes, and returns it once it is the command."""
    tenon.build_adapter("linear", 1024, 1024, seed=1).save(folder / "large.safetensors")
    words = ["bench", folder / "large.safetensors", "--tokens", "4096", "--repeat", "1001", "--threads", "1"]
    run = subprocess.Popen([*by, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(500):
        if pathlib.Path(f"/proc/{run.pid}/exe").resolve() == COMMAND.resolve():
            return run
        time.sleep(0.02)
    run.kill()
    raise AssertionError("the process has not become the command")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_it(folder, number):
    codes = []
    for by in ([COMMAND], MODULE):
        run = endless(by, folder)
        time.sleep(0.2)
        run.send_signal(number)
        codes.append(run.wait(timeout=60))
    assert codes[0] == codes[1] != 0


def test_a_closed_pipe_is_the_same_to_both():
    codes = []
    for by in ([COMMAND], MODULE):
        read, write = os.pipe()
        os.close(read)
        codes.append(subprocess.run([*by, "help", "fit"], stdout=write, stderr=subprocess.DEVNULL).returncode)
        os.close(write)
    assert codes[0] == codes[1] != 0


def test_a_package_without_its_command_says_so(tmp_path, monkeypatch, capsys):
    class Nothing:
        files = []

    monkeypatch.setattr(tenon.__main__.metadata, "distribution", lambda name: Nothing)
    monkeypatch.setattr(tenon.__main__, "__file__", str(tmp_path / "tenon/__main__.py"))
    with pytest.raises(SystemExit, match="install tenon-vlm again"):
        tenon.__main__.main()
    (tmp_path / "bin").mkdir()  # as `pip install --target` lays it out
    (tmp_path / "bin/tenon").symlink_to(COMMAND)
    assert tenon.__main__.find_command() == COMMAND.resolve()


def test_missing_packages_are_named_by_pip(tmp_path):
    """As on a machine without the headers: no folder of the system is searched, and pkg-config knows no module."""
    words = ["-m", "pip", "wheel", os.environ["TENON_SOURCE"], "--no-build-isolation", "--no-deps", "--no-index"]
    env = {**os.environ, "PKG_CONFIG_PATH": "", "PKG_CONFIG_LIBDIR": str(tmp_path)}
    env["CMAKE_ARGS"] = "-DCMAKE_IGNORE_PATH=/usr/include;/usr/local/include"
    done = subprocess.run(
        [sys.executable, *words, "-w", tmp_path, "-C", f"build-dir={tmp_path / 'build'}"],
        capture_output=True, text=True, env=env,
    )
    assert done.returncode != 0
    assert "apt-get install libdlpack-dev libjansson-dev libxxhash-dev" in done.stdout + done.stderr
