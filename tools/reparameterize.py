"""Merge the X-volutions of a trained model; write the new checkpoint, and its config beside it.

Usage: python tools/reparameterize.py CONFIG CHECKPOINT OUT.pth [--mini]
       [--cfg-options KEY=VALUE ...]
       then python tools/test.py OUT.py OUT.pth
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("reparameterize").main()
