# SPDX-License-Identifier: MIT
"""Measures tenon beside its peers: `make bench`, or

    python3 bench/run.py                          everything; about half an hour on two cores
    python3 bench/run.py --only connectors,engine --quick
    python3 bench/run.py --write-docs             and put the tables into docs/performance.md, and draw README.md's chart
    python3 bench/run.py --against COMMIT         ours beside that commit of ours: was speed lost?

Makes the peers' environment in the user's cache folder, builds ours, runs all contenders in turns, checks that they
agree, prints tables in markdown and writes bench/results/<cpu>.json. docs/measuring.md says how to read them.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from harness import environment
from harness.environment import ROOT, say

AGAINST = ("connectors", "training", "engine")
SECTIONS = ("connectors", "training", "modules", "engine", "accuracy", "scaling", "memory", "preparing", "folder")


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="LIST", help=f"some of {', '.join(SECTIONS)}, separated by commas")
    parser.add_argument("--against", metavar="COMMIT", help=f"build that commit too, and run old and new in turns; sections "
                        f"{', '.join(AGAINST)}")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works; results are not kept")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (15; 3 with --quick)")
    parser.add_argument("--build", type=pathlib.Path, metavar="DIR", help="a build of ours, instead of making one")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--docs-only", action="store_true", help="likewise, from the kept results; measures nothing")
    parser.add_argument("--self-test", action="store_true", help="check the harness itself; measures nothing")
    options = parser.parse_args(words)
    known = AGAINST if options.against else SECTIONS
    options.sections = options.only.split(",") if options.only else list(known)
    unknown = sorted(set(options.sections) - set(known))
    if unknown:
        parser.error(f"no section{' of --against' if options.against else ''} is called {unknown[0]}; there are {', '.join(known)}")
    if options.quick and options.write_docs:
        parser.error("--quick is too noisy for the documentation")
    if options.against and (options.write_docs or options.docs_only):
        parser.error("the documentation's tables are of one commit; leave out --against")
    if options.repeat is not None and options.repeat < 1:
        parser.error("--repeat is at least 1")
    return options


def measure(options: argparse.Namespace) -> int:
    from harness.report import Disagreement

    try:
        if options.against:
            from harness import against

            return against.run(options)
        from harness import driver

        return driver.run(options)
    except Disagreement as error:
        say(f"no table: the contenders do not agree. {error}")
        return 1


def main() -> int:
    options = parse(sys.argv[1:])
    if options.self_test:
        from harness import selftest

        return selftest.run()
    if options.docs_only:
        from harness import driver

        return driver.write_docs(options)
    script = str(ROOT / "bench/run.py")
    if options.against:
        environment.enter(environment.tests_python(), sys.argv[1:], script)
        return measure(options)
    environment.install_debian()
    environment.enter(environment.make_venv(), sys.argv[1:], script)
    options.build = options.build or environment.build()
    return measure(options)


if __name__ == "__main__":
    sys.exit(main())
