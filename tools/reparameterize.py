"""Merge the X-volutions of a trained model; write the new checkpoint, and its config beside it.

Usage: python tools/reparameterize.py CONFIG CHECKPOINT OUT.pth [--mini]
       [--cfg-options KEY=VALUE ...]
       then python tools/test.py OUT.py OUT.pth
"""

import argparse

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.deploy.reparameterize import reparameterize
from hybrid_backbones.training import launch


def main() -> None:
    parser = argparse.ArgumentParser(description="Merge the X-volutions of a trained model.")
    parser.add_argument("config", help="config file of the model")
    parser.add_argument("checkpoint", help="checkpoint saved by tools/train.py")
    parser.add_argument("out", help="path of the new .pth file; its config is written beside it")
    launch.add_config_arguments(parser)
    args = parser.parse_args()
    with launch.one_line_errors(), guard_loads(run_code=args.run_code):
        config = reparameterize(launch.read_config(args), args.checkpoint, args.out)
        print(f"saved to {args.out}; its config is {config}")


if __name__ == "__main__":
    main()
