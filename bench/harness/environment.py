# SPDX-License-Identifier: MIT
"""Where the peers come from: a virtual environment in the user's cache folder, Debian's packages, our release build.
Standard library only: this runs before there is an environment."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tenon"
VENV = CACHE / "bench-venv"
BUILD = ROOT / "build/bench"
REQUIREMENTS = ROOT / "bench/requirements.txt"
# package: the library that shows it is there
DEBIAN = {"libopenblas-dev": "libopenblas.so", "libblis-dev": "libblis.so", "libdnnl-dev": "libdnnl.so"}


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _pip(*arguments: str) -> bool:
    return subprocess.run([VENV / "bin/python", "-m", "pip", "install", "-q", *arguments]).returncode == 0


def _install(missing: list[str]) -> None:
    """All at once; where that fails one by one, so that a peer without a wheel for this machine is left out alone."""
    say(f"installing {', '.join(missing)} into {VENV} (a few GB, once)")
    if _pip(*missing):
        return
    for requirement in missing:
        if not _pip(requirement):
            say(f"{requirement} cannot be had here; it is left out")


def make_venv() -> pathlib.Path:
    """The interpreter of the peers' environment; made when it is missing or the requirements changed."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = VENV / "requirements.sha256"
    if not stamp.exists() or stamp.read_text() != wanted:
        if not (VENV / "bin/python").exists():
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        lines = REQUIREMENTS.read_text().splitlines()
        _install([line for line in lines if line and not line.startswith("#")])
        stamp.write_text(wanted)
    return VENV / "bin/python"


def _has_library(name: str) -> bool:
    listed = subprocess.run(["sh", "-c", "PATH=$PATH:/sbin ldconfig -p"], capture_output=True, text=True).stdout
    return name in listed


def install_debian() -> None:
    missing = [package for package, library in DEBIAN.items() if not _has_library(library)]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-q", *missing]
    if not shutil.which("apt-get"):
        say(f"{', '.join(missing)} missing: the engine is compared with what there is")
    elif os.geteuid() != 0:
        say(f"some libraries are left out; to have them:  apt-get install {' '.join(missing)}")
    else:
        subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL)
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
            say(f"apt-get could not install {' '.join(missing)}; they are left out")


def build(source: pathlib.Path = ROOT, folder: pathlib.Path = BUILD, targets: Sequence[str] = ("all",)) -> pathlib.Path:
    """A release build with the contenders; returns its folder. The compiler's words are shown where it fails."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    fresh = [] if (folder / "CMakeCache.txt").exists() else generator
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DTENON_BENCH=ON", "-DTENON_TESTS=OFF"]
    steps = (["cmake", "-S", source, "-B", folder, *fresh, *flags],
             ["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *targets])
    for step in steps:
        done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.stderr.write(done.stdout[-4000:])
            raise subprocess.CalledProcessError(done.returncode, step)
    return folder


def install_package(python: pathlib.Path) -> pathlib.Path | None:
    """Our Python package in a folder of its own, as `pip install` makes it; None where that fails."""
    folder = BUILD / "python"
    shutil.rmtree(folder, ignore_errors=True)
    command = [python, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, ROOT]
    if subprocess.run(command).returncode != 0:
        say("the Python package cannot be built here; tenon.torch is left out")
        return None
    return folder


def tests_python() -> pathlib.Path:
    """The interpreter of the tests: NumPy without the peers."""
    words = ["sh", ROOT / "scripts/test_python.sh"]
    return pathlib.Path(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def enter(python: pathlib.Path, arguments: list[str], script: str) -> None:
    """Goes on in that interpreter, unless this is it."""
    if pathlib.Path(sys.prefix).resolve() != python.parents[1].resolve():
        os.execv(python, [str(python), script, *arguments])
