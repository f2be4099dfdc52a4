# SPDX-License-Identifier: MIT
"""``python -m tenon``: the command, which the wheel puts beside the interpreter as ``tenon``."""

import os
import signal
import sys
from importlib import metadata
from pathlib import Path


def find_command() -> Path:
    """Where the installer put the command that belongs to this package; FileNotFoundError where there is none."""
    package = Path(__file__).resolve().parent
    try:
        files = metadata.distribution("tenon-vlm").files or []
    except metadata.PackageNotFoundError:
        files = []
    places = [Path(file.locate()) for file in files if file.name == "tenon"]
    places.append(package.parent / "bin/tenon")  # pip install --target
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.resolve()
    raise FileNotFoundError(
        f"the command is not where this package's installer put it ({', '.join(map(str, places))}); install tenon-vlm again"
    )


def main() -> None:
    """Becomes the command: the same process, streams, signals and exit code."""
    try:
        command = find_command()
    except FileNotFoundError as error:
        sys.exit(f"python -m tenon: {error}")
    # Python ignores these signals, and a program inherits what is ignored.
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    os.execv(command, ["tenon", *sys.argv[1:]])


if __name__ == "__main__":
    main()
