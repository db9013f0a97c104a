"""Write a golden file, in the format of tests/golden, from any network.

Usage: python tools/make_golden.py hybrid_backbones.backbones.ACmixResNet
       --arguments '{"depth": 26}' --shape 1 3 224 224 --out golden.json
       PYTHONPATH=../published python tools/make_golden.py models.resnet50
       --features layer1 layer2 layer3 layer4 --shape 1 3 224 224 --out golden.json
       python tools/make_golden.py configs/maskrcnn_biformer_s.py
       --arguments '{"model.backbone.arch": "tiny"}' --shape 1 3 224 224 --out golden.json

Of a config, the backbone is built.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from golden.make import build, describe


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a golden file from any network.")
    parser.add_argument("network", help="import path of a class or function, or a config file")
    parser.add_argument(
        "--arguments", type=json.loads, default={}, help="arguments or config overrides, as JSON"
    )
    shape = dict(type=int, nargs=4, action="append", metavar=tuple("BCHW"), required=True)
    parser.add_argument("--shape", **shape, help="input shape of a case; repeat for more cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs")
    parser.add_argument("--features", nargs="+", default=[], help="names of feature modules")
    parser.add_argument("--skip", nargs="+", default=[], help="name endings of entries to keep")
    parser.add_argument("--source", help="repository and file of the published network")
    parser.add_argument("--out", type=Path, required=True, help="path of the new .json file")
    args = parser.parse_args()
    if args.out.exists() or not args.out.parent.is_dir():
        parser.error(f"--out must be a new file in a folder that exists, got {args.out}")
    try:
        network = build(args.network, args.arguments)
    except (AttributeError, ImportError, OSError, TypeError, ValueError) as error:
        parser.error(f"{args.network} cannot be built: {error}")
    try:
        content = describe(
            network, args.shape, seed=args.seed, features=args.features, skip=args.skip
        )
    except ValueError as error:
        parser.error(f"no golden file of {args.network}: {error}")
    head = dict(model=type(network).__name__, source=args.source or args.network)
    args.out.write_text(json.dumps(head | dict(arguments=args.arguments) | content))
    print(f"wrote {args.out}: {len(content['entries'])} entries, {len(args.shape)} cases")


if __name__ == "__main__":
    main()
