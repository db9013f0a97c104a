"""Train a model.

Usage: python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]]
       [--pretrained] [--fresh-head [PART ...]] [--amp [bf16|fp16]] [--compile] [--auto-scale-lr]
       [--batch-size N|auto] [--mini] [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("train").main()
