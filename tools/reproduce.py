"""Evaluate published weights as published, and note the results in docs/reproduced.md.

Usage: python tools/reproduce.py NAME ... [--dry-run] [--limit N] [--file FILE] [--page PAGE.md]
       [--work-dir DIR] [--cfg-options KEY=VALUE ...]
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("reproduce").main()
