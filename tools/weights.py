"""List, download and verify the weights that the authors publish.

Usage: python tools/weights.py list [PATTERN]
       python tools/weights.py get NAME
       python tools/weights.py verify FILE
"""

import argparse

from hybrid_backbones.checkpoints import commands
from hybrid_backbones.training.launch import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description="List, download and verify published weights.")
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("list", help="list the published checkpoints")
    action.add_argument("argument", nargs="?", default="", metavar="PATTERN", help="part of a name")
    action.set_defaults(run=commands.list_published)
    action = actions.add_parser("get", help="download a checkpoint, and say where it is")
    action.add_argument("argument", metavar="NAME", help="name of the list, or an address")
    action.set_defaults(run=commands.get)
    action = actions.add_parser("verify", help="say which published checkpoint a file is")
    action.add_argument("argument", metavar="FILE", help="path of the file")
    action.set_defaults(run=commands.verify)
    args = parser.parse_args()
    with one_line_errors():
        print("\n".join(args.run(args.argument)))


if __name__ == "__main__":
    main()
