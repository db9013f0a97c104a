"""Run a script that mmdet, mmseg or mmpretrain brings along, with the backbones registered.

Usage: python tools/run.py HOST                       lists the host's scripts
       python tools/run.py HOST SCRIPT [ARGUMENTS]    runs one; its own flags follow
       python tools/run.py mmdet browse_dataset configs/maskrcnn_biformer_s.py --not-show
"""

import argparse

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.host_scripts import HOSTS, find_scripts, run_script
from hybrid_backbones.training.launch import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Run a script that mmdet, mmseg or mmpretrain brings along."
    )
    parser.add_argument("host", help=f"library of the script: {', '.join(HOSTS)}")
    parser.add_argument("script", nargs="?", help="name of the script; all are listed without")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    args = parser.parse_args()
    with one_line_errors(), guard_loads():
        if args.script is None:
            print("\n".join(find_scripts(args.host)))
        else:
            run_script(args.host, args.script, args.arguments)


if __name__ == "__main__":
    main()
