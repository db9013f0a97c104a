"""List, download, verify and convert the weights that the authors publish.

The command is `hb weights`, or `tools/weights.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..checkpoints import commands, guard_loads
from ..checkpoints.convert import convert, recognise
from ..config_files import CONFIGS
from ..training.errors import one_line_errors
from ..training.requirements import require_writable_file
from ..training.run_config import read_config


def convert_to(args: argparse.Namespace) -> list[str]:
    """Write a checkpoint with what the hosts' tools look for."""
    config, options = args.config, {}
    if config is None:
        record = recognise(args.argument)
        config, options = str(CONFIGS / f"{record.config}.py"), dict(record.options)
    cfg = read_config(argparse.Namespace(config=config, mini=False, cfg_options=options))
    require_writable_file(Path(args.out))
    convert(cfg, args.argument, args.out)
    return [f"wrote {args.out}, a checkpoint of {config}"]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Handle published weights.")
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("list", help="list the published checkpoints")
    action.add_argument("argument", nargs="?", default="", metavar="PATTERN", help="part of a name")
    action.set_defaults(run=lambda args: commands.list_published(args.argument))
    action = actions.add_parser("get", help="download a checkpoint, and say where it is")
    action.add_argument("argument", metavar="NAME", help="name of the list, or an address")
    action.set_defaults(run=lambda args: commands.get(args.argument))
    action = actions.add_parser("verify", help="say which published checkpoint a file is")
    action.add_argument("argument", metavar="FILE", help="path of the file")
    action.set_defaults(run=lambda args: commands.verify(args.argument))
    action = actions.add_parser("convert", help="write a file that the hosts' own tools take")
    action.add_argument("argument", metavar="NAME_OR_FILE", help="name of the list, or a file")
    action.add_argument("out", metavar="OUT.pth", help="file to write, which must not exist")
    action.add_argument("--config", help="config of the model; default: the published one's")
    action.set_defaults(run=convert_to)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads():
        print("\n".join(args.run(args)))
