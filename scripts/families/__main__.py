"""Writes the files of a family's small model: ``python -m families NAME DIRECTORY``.

Prints the arguments that a server of it needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from families import FAMILIES, build_family


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Write a small model, but for its weights.")
    parser.add_argument("family", choices=FAMILIES, metavar="NAME", help=", ".join(FAMILIES))
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    build_family(arguments.directory, arguments.family)
    print(*FAMILIES[arguments.family].serving)


if __name__ == "__main__":
    main()
