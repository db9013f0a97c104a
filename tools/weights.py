"""List, download, verify and convert the weights that the authors publish.

Usage: python tools/weights.py list [PATTERN]
       python tools/weights.py get NAME
       python tools/weights.py verify FILE
       python tools/weights.py convert NAME_OR_FILE OUT.pth [--config CONFIG]
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("weights").main()
