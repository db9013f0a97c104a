"""`python -m hybrid_backbones.cli`, the same as `hb`, also for torchrun and Slurm."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
