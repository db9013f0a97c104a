"""Run a script that mmdet, mmseg or mmpretrain brings along, with the backbones registered.

Usage: python tools/run.py HOST                       lists the host's scripts
       python tools/run.py HOST SCRIPT [ARGUMENTS]    runs one; its own flags follow
       python tools/run.py mmdet browse_dataset configs/maskrcnn_biformer_s.py --not-show
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("run").main()
