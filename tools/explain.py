"""Draw what a trained model looks at in an image: attention, routes, gates, tokens, Grad-CAM.

Usage: python tools/explain.py IMAGE CONFIG CHECKPOINT --out DIR [--layer PATH] [--at Y X]
       [--what all|routes|attention|rates|tokens|kernel|cam|erf|features] [--device cuda] [--mini]
       [--sketch FILE ...] [--cfg-options KEY=VALUE ...]
       IMAGE may be a folder; DIR has a folder for each image then.
       --sketch, of LocFormer: an image, FILE.ndjson or FILE.ndjson:INDEX (from 0), up to five
"""

from hybrid_backbones.cli.main import import_command

if __name__ == "__main__":
    import_command("explain").main()
