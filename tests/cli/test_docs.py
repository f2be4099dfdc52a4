# SPDX-License-Identifier: MIT
"""Help, the manual page, the completion and docs/cli.md say the same as the option tables."""
import os
import re
import subprocess

import pytest

import console
from conftest import BINARY

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SUBCOMMANDS = ["tokens", "init", "inspect", "run", "fit", "compare", "bench"]


def read(*parts):
    return open(os.path.join(ROOT, *parts)).read()


def options_of(tenon, name):
    return re.findall(r"^  (?:-\w, )?--([\w-]+)", tenon(name, "--help").out, re.MULTILINE)


def test_the_committed_files_are_current(tenon, tmp_path):
    subprocess.run([os.path.join(ROOT, "scripts", "make_cli_docs.sh"), BINARY, str(tmp_path)], check=True)
    for name in ("docs/tenon.1", "cli/completion/tenon.bash"):
        assert read(name) == (tmp_path / name).read_text(), f"{name}: run scripts/make_cli_docs.sh"


def test_the_page_shows_what_the_command_prints(tmp_path):
    page = read("docs", "cli.md")
    new = console.run_page(page, BINARY, str(tmp_path))
    assert console.settle(new) == console.settle(page), "docs/cli.md: run tests/cli/console.py"


def test_the_demo_runs(tmp_path):
    environment = os.environ | {"TENON_BIN": BINARY, "TENON_DEMO": str(tmp_path)}
    done = subprocess.run(["sh", os.path.join(ROOT, "scripts", "demo.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mlp_2layer         729 patches of 588 numbers -> 729 tokens" in done.stdout
    assert "attentional_pool   729 patches of 588 numbers ->  81 tokens" in done.stdout
    assert {"mlp_2layer.npy", "attentional_pool.npy"} <= set(os.listdir(tmp_path))


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_B139_every_option_is_explained_with_an_example(tenon, name):
    text = tenon(name, "--help").out
    assert tenon("help", name).out == text and text == tenon(name, "-h").out
    options = options_of(tenon, name)
    assert "json" in options and "help" in options and len(options) == len(set(options))
    man = read("docs", "tenon.1").replace("\\-", "-")
    completion = read("cli", "completion", "tenon.bash")
    section = man.split(f".SS tenon {name} ")[1].split(".SS ")[0]
    for option in options:
        assert option == "help" or f"--{option}" in section
        assert f"--{option}" in completion.split(f"_tenon_{name}()")[1].split("\n}")[0]
    examples = text.split("Examples:")[1]
    assert f"tenon {name} " in examples and "#" in examples
    assert "without it" not in text, "say: default X"


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_examples_of_help_parse(tenon, name):
    for line in tenon(name, "--help").out.split("Examples:")[1].splitlines():
        if not line.strip().startswith("tenon "):
            continue
        # Files are missing here, so 1 and compare's 2 are fine; an option that is unknown is not.
        done = subprocess.run([BINARY, *line.split()[1:]], capture_output=True, text=True)
        assert "--help" not in done.stderr, line


def test_help_and_version(tenon):
    overview = tenon("help").out
    for name in SUBCOMMANDS:
        assert name in overview
    assert tenon("--help").out == overview
    assert re.match(r"tenon \d+\.\d+\.\d+ ", tenon("--version").out)
    assert "subcommand" in tenon(code=2).err
    for words in (["runn"], ["help", "runn"]):
        assert "unknown subcommand 'runn' (did you mean 'run'?)" in tenon(*words, code=2).err
    assert "the subcommands are tokens, init, inspect" in tenon("explain", code=2).err
    assert "unknown option '--verison' (did you mean --version?)" in tenon("--verison", code=2).err
    assert "come after its name" in tenon("--frobnicate", code=2).err


def complete(*words):
    """What bash offers for the last word."""
    script = f"""
        PATH={os.path.dirname(os.path.abspath(BINARY))}:$PATH
        source {os.path.join(ROOT, "cli/completion/tenon.bash")}
        COMP_WORDS=({" ".join(f"'{w}'" for w in words)}); COMP_CWORD={len(words) - 1}
        _tenon; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_completion(tenon):
    assert set(SUBCOMMANDS) <= set(complete("tenon", ""))
    assert complete("tenon", "in") == ["init", "inspect"]
    assert "--window" in complete("tenon", "tokens", "--w")
    assert "avgpool" in complete("tenon", "init", "--type", "a")
    assert complete("tenon", "run", "--dtype", "b") == ["bf16"]
    assert "baseline" in complete("tenon", "run", "--cpu", "")
    open("model.safetensors", "w").close()
    assert complete("tenon", "run", "mod") == ["model.safetensors"]
    assert complete("tenon", "run", "-o", "mod") == ["model.safetensors"]


def test_no_list_of_connectors_is_typed_twice():
    for name in ("docs/tenon.1", "cli/completion/tenon.bash"):
        for line in read(name).splitlines():
            assert not ("avgpool" in line and "mlp_2layer" in line), line
