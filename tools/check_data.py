"""Read all data of a config before a training, and report everything that is wrong with it.

Usage: python tools/check_data.py CONFIG [--out DIR] [--mini] [--cfg-options KEY=VALUE ...]
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("check_data").main()
