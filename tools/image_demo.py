"""Draw a trained model's predictions on an image: boxes and masks, segmentation, or class.

Usage: python tools/image_demo.py IMAGE CONFIG CHECKPOINT [--out FILE.png] [--device cuda]
       [--score-thr 0.3] [--mini] [--cfg-options KEY=VALUE ...]
       python tools/image_demo.py IMAGE EXPORTED.onnx [--out FILE.png] [--score-thr 0.3]
       IMAGE may be a folder; --out is a folder then
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("image_demo").main()
