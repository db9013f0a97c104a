"""Diagnose the installation and suggest remedies; exit with 1 if training cannot start.

The command is `hb doctor`. In a checkout, `tools/doctor.py` runs where the package cannot be
imported, too.
"""

import argparse
from collections.abc import Sequence

from .. import doctor


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return argparse.ArgumentParser(description="Diagnose the installation.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with the arguments of the command line unless others are given."""
    make_parser().parse_args(arguments)
    return doctor.main()
