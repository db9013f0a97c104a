"""Serve a page to try trained models in the browser, on this machine only.

Usage: python tools/playground.py [CONFIG CHECKPOINT ...] [--port 7860] [--device cuda] [--mini]
       [--cfg-options KEY=VALUE ...]
       Without a model it serves some trained on the mini set, and trains the missing ones first.
"""

import argparse

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.playground.command import playground
from hybrid_backbones.training import launch


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a page to try trained models.")
    parser.add_argument(
        "models", nargs="*", metavar="CONFIG CHECKPOINT", help="models to serve, in pairs"
    )
    parser.add_argument("--port", type=int, default=7860, help="port on this machine")
    parser.add_argument("--device", default="cpu", help="device: cpu, cuda, cuda:1 ...")
    launch.add_config_arguments(parser)
    args = parser.parse_args()
    with launch.one_line_errors(), guard_loads(run_code=args.run_code):
        playground(args)


if __name__ == "__main__":
    main()
