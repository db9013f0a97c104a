"""Evaluate a checkpoint.

Usage: python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR] [--work-dir DIR]
       [--tta] [--compile] [--mini] [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("test").main()
