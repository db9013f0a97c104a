"""Draw the objects that match a sketch in an image, and the attention of the sketch.

Usage: python tools/sketch_demo.py IMAGE SKETCH CONFIG CHECKPOINT [--out FILE.png] [--device cuda]
       [--score-thr 0.3] [--mini] [--cfg-options KEY=VALUE ...]
       IMAGE may be a folder; --out is a folder then.
       SKETCH is an image, or a drawing of QuickDraw: FILE.ndjson or FILE.ndjson:INDEX
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("sketch_demo").main()
