"""Measure operators, backbones or whole models on this machine; print a table and save it as JSON.

Usage: python tools/benchmark.py ops|backbones [--size H W] [--batch N] [--only NAME ...]
       [--dtype float32|bfloat16|float16] [--device cpu|cuda] [--threads N] [--repeats N]
       [--out FILE.json] [--markdown]
       ops: [--scales N ...] for several map sizes; backbones: [--compile] [--graph]
       python tools/benchmark.py train CONFIG ... [the same options except --only]
       python tools/benchmark.py layers CONFIG ... [the same options except --only and --repeats]
       python tools/benchmark.py jobs CONFIG [--jobs N] [--threads N] [--repeats N] [--out FILE]
       python tools/benchmark.py gpu [--only STEP ...] [--rehearse] [--out FOLDER]
       python tools/benchmark.py page [FOLDER] [--out FILE.md]

`layers` counts what a training step keeps for its backward pass, by layer.
A plot of speed against size is saved beside the JSON for backbones, and for operators at several
scales. `page` writes a Markdown page of the tables saved in a folder as <device>_<name>.json.
"""

import sys

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    sys.exit(import_command("benchmark").main())
