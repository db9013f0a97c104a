"""Serve a page to try trained models in the browser, on this machine only.

Usage: python tools/playground.py [CONFIG CHECKPOINT ...] [--port 7860] [--device cuda] [--mini]
       [--cfg-options KEY=VALUE ...]
       Without a model it serves some trained on the mini set, and trains the missing ones first.
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("playground").main()
