"""Evaluate a checkpoint.

Usage: python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR] [--work-dir DIR]
       [--tta] [--compile] [--mini] [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from hybrid_backbones.cli.test import main

if __name__ == "__main__":
    main()
