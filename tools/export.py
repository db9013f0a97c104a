"""Export a trained model to ONNX or to a program of torch.export, run it and compare it.

Usage: python tools/export.py CONFIG CHECKPOINT OUT.onnx [--size 224 224] [--dynamic | --resize]
       [--fp16 | --int8 FOLDER] [--aot] [--backbone-only | --no-postprocess] [--no-fuse]
       [--no-compile] [--force] [--mini] [--cfg-options KEY=VALUE ...]
       OUT may end with .pt2 for torch.export; the report is printed and written as OUT.json
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("export").main()
