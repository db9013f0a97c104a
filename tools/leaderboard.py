"""Train and evaluate many configs, and write one page of their results, with pictures and a CSV.

Usage: python tools/leaderboard.py CONFIG ... --out DIR [--mini] [--jobs N] [--seeds N]
       [--launcher local|torchrun|slurm] [--gpus N] [--sbatch OPTION=VALUE ...]
       [--pretrained] [--amp [bf16|fp16]] [--auto-scale-lr] [--speeds FILE.json ...]
       [--cfg-options KEY=VALUE ...]

Give the same command again after an interruption: finished runs stay, others go on.
"""

import sys

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    sys.exit(import_command("leaderboard").main())
