"""Evaluate published weights as published, and note the results in docs/reproduced.md.

Usage: python tools/reproduce.py NAME ... [--dry-run] [--limit N] [--file FILE] [--page PAGE.md]
       [--work-dir DIR] [--cfg-options KEY=VALUE ...]
"""

from hybrid_backbones.cli.reproduce import main

if __name__ == "__main__":
    main()
