"""List, download, verify and convert the weights that the authors publish.

Usage: python tools/weights.py list [PATTERN]
       python tools/weights.py get NAME
       python tools/weights.py verify FILE
       python tools/weights.py convert NAME_OR_FILE OUT.pth [--config CONFIG]
"""

import argparse
from pathlib import Path

from hybrid_backbones.checkpoints import commands, guard_loads
from hybrid_backbones.checkpoints.convert import convert, recognise
from hybrid_backbones.training.launch import one_line_errors, read_config
from hybrid_backbones.training.requirements import require_writable_file

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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


def main() -> None:
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
    args = parser.parse_args()
    with one_line_errors(), guard_loads():
        print("\n".join(args.run(args)))


if __name__ == "__main__":
    main()
