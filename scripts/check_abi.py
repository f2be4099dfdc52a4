#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that a change of the binary interface changes the SONAME: compares tenon.h with that of the last release.

    check_abi.py [COMMIT]       the release to compare with; default: the last tag v* that is an ancestor
    check_abi.py --self-test

A declaration may be added; a struct that begins with its `size` and an enum may grow at the end. Anything else breaks
programs that are linked already, and needs a new number in the SONAME: the minor one before 1.0, then the major one.
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "include/tenon/tenon.h"


def declarations(text):
    """What a header declares: {name or head: list of its parts, all blanks alike}."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"^[ \t]*#(.*\\\n)*.*$", "", text, flags=re.MULTILINE).replace('extern "C" {', "")
    found = {}
    for head, body, tail in re.findall(r"([^;{]*)(?:\{([^}]*)\}([^;]*))?;", text):
        head = " ".join(head.split())
        function = re.search(r"(tenon_\w+) ?\)? ?\(", head)
        separator = "," if " enum " in f" {head} " else ";"
        parts = [" ".join(part.split()) for part in body.split(separator)] if body else [head]
        name = function[1] if function else f"enum {parts[0]}" if head == "enum" else head
        found[name] = [part for part in parts if part] + tail.split()
    return found


def breaks(old, new):
    """A sentence for each declaration that programs linked to the old library cannot live with."""
    for name, parts in old.items():
        may_grow = "enum" in name or parts[0] == "size_t size"
        if name not in new:
            yield f"{name} is gone"
        elif new[name] != parts and not (may_grow and new[name][: len(parts) - 1] == parts[:-1]):
            yield f"{name} was '{'; '.join(parts)}' and is '{'; '.join(new[name])}'"


def number(text):
    """The number in the SONAME that a header's version gives."""
    major, minor = (re.search(rf"TENON_VERSION_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR"))
    return f"0.{minor}" if major == "0" else major


def git(*words):
    done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def self_test():
    old = """
        #define TENON_VERSION_MAJOR 0
        #define TENON_VERSION_MINOR 1
        #define API(x) \\
            x;
        extern "C" {
        typedef enum tenon_e { TENON_A = 1, TENON_B = 2 } tenon_e; /* a; comment */
        typedef struct tenon_grows { size_t size; int a; } tenon_grows;
        typedef struct tenon_plain { int a; } tenon_plain;
        typedef void (*tenon_callback)(int a);
        API int tenon_call(int a,
                           int b);
        }"""

    def found(before, after):
        assert before in old
        return list(breaks(declarations(old), declarations(old.replace(before, after))))

    assert number(old) == "0.1" and not found("", "")
    assert not found("TENON_B = 2", "TENON_B = 2, TENON_C = 3") and not found("size_t size; int a;", "size_t size; int a; int b;")
    assert not found("extern", "API int tenon_new(void); extern") and not found("comment", "another")
    assert found("TENON_B = 2", "TENON_B = 3") and found("plain { int a;", "plain { int a; int b;")
    assert found("size_t size; int a;", "size_t size; long a;") and found("(int a)", "(long a)")
    assert found("int b);", "long b);") and found("tenon_call", "tenon_called")
    print("the check sees what breaks")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    release = sys.argv[1] if len(sys.argv) > 1 else git("describe", "--tags", "--match", "v[0-9]*", "--abbrev=0")
    if release is None:
        print("there is no release to compare with")
        return 0
    old = git("show", f"{release.strip()}:{HEADER}")
    if old is None:
        sys.exit(f"{release.strip()} has no {HEADER}")
    new = (ROOT / HEADER).read_text()
    troubles = list(breaks(declarations(old), declarations(new))) if number(old) == number(new) else []
    if troubles:
        print(f"{HEADER} breaks the binary interface of {release.strip()}; raise the number in the SONAME (CONTRIBUTING.md):")
    print("\n".join(troubles) or f"libtenon.so.{number(new)} keeps what {release.strip()} promised, or has a new name")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
