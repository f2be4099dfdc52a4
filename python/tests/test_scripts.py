# SPDX-License-Identifier: MIT
"""The tutorial, and the reference."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

SOURCE = pathlib.Path(os.environ["TENON_SOURCE"])


def test_tutorial(tmp_path):
    words = [sys.executable, SOURCE / "examples/tutorial.py", "--output", tmp_path, "--steps", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, last = map(float, re.search(r"loss (\S+) -> (\S+) in 60 steps", done.stdout).groups())
    assert last < 0.1 * first
    assert "729 patches -> 81 tokens" in done.stdout
    assert float(re.search(r"at most (\S+) from PyTorch's", done.stdout)[1]) < 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {"connector.safetensors", "attention.png"}


def test_reference(tmp_path):
    """Sphinx finds everything and has nothing to complain about."""
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees", "-b", "html"]
    done = subprocess.run(
        [*words, SOURCE / "docs/reference", tmp_path / "html"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "html/numpy.html").read_text() + (tmp_path / "html/torch.html").read_text()
    for name in ("tenon.Adapter.attention", "tenon.Config.from_toml", "tenon.torch.AttentionalPoolAdapter"):
        assert f'id="{name}"' in shown, name


def test_the_readme_runs(command):
    """Its shell, C and Python, by language; the command is that of the wheel's build folder, as the C library is."""
    words = [sys.executable, SOURCE / "scripts/run_page.py", SOURCE / "README.md"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env={**os.environ, "TENON_BIN": command})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "page, said",
    [
        ("```sh\ntenon frobnicate\n```\n", "frobnicate"),
        ("```sh\nmake nonsense\n```\n", "there is no nonsense"),
        ("```sh\npip install '.[nonsense]'\n```\n", "there is no nonsense"),
        ("```console\n$ tenon tokens --type avgpool --window 3 729\n82\n```\n", "the console prints something else"),
        ("```c\ntenon_nonsense();\n```\n", "compiling its C fails"),
        ("```python\nimport tenon\ntenon.nonsense\n```\n", "its Python fails"),
        ("```\ntenon --version\n```\n", "a block of ''"),
    ],
)
def test_a_page_that_does_not_run_is_told(tmp_path, command, page, said):
    (tmp_path / "page.md").write_text(page)
    words = [sys.executable, SOURCE / "scripts/run_page.py", tmp_path / "page.md"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env={**os.environ, "TENON_BIN": command})
    assert done.returncode == 1 and said in done.stderr, done.stderr


def test_stubs_name_what_there_is():
    """tenon/_C.pyi lists the extension module, no more and no less."""
    import ast

    import tenon
    from tenon import _C

    tree = ast.parse((pathlib.Path(tenon.__file__).parent / "_C.pyi").read_text())
    assert (pathlib.Path(tenon.__file__).parent / "py.typed").exists()

    def names(body):
        found = set()
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign) and node.target.id != "RawTensor":
                found.add(node.target.id)
        return found

    public = lambda thing: {name for name in vars(thing) if not name.startswith("__")}
    assert names(tree.body) == public(_C)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            stubbed = {name for name in names(node.body) if not name.startswith("__")}
            assert stubbed == public(getattr(_C, node.name)), node.name


@pytest.mark.parametrize("name", ["_C", "convert", "plot"])
def test_modules_have_docstrings(name):
    import importlib

    assert importlib.import_module(f"tenon.{name}").__doc__
