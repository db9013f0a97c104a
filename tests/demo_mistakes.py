"""What users do wrong with the demos and with merging: rows for the table of mistakes.

Each is the command line in an empty folder, and what the one line must say.
"""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from hybrid_backbones.mini.preset import apply_mini

CLASSIFIER = "configs/imagenet_swiftformer_xs.py"
SEARCH = "configs/locformer_swin_t.py"


def an_image(tmp, size=(60, 40)):
    path = tmp / f"image {size[0]}×{size[1]}.png"
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def a_folder(tmp, *names):
    (tmp / "folder").mkdir()
    for name in names:
        (tmp / "folder" / name).write_text("not an image")
    return tmp / "folder"


def a_checkpoint(tmp, **content):
    """Save a mini classifier that knows nothing."""
    cfg = Config.fromfile(CLASSIFIER)
    apply_mini(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        weights = MODELS.build(cfg.model).state_dict()
    torch.save(dict(content, state_dict=weights), tmp / "epoch_1.pth")
    return tmp / "epoch_1.pth"


def image_demo(tmp, *flags, image=None, config=CLASSIFIER, checkpoint="none.pth"):
    out = () if "--out" in flags else ("--out", tmp / "new" / "picture.png")
    return ("tools/image_demo.py", image or an_image(tmp), config, checkpoint, *flags, *out)


def sketch_demo(tmp, *flags, image=None, config=SEARCH):
    out = () if "--out" in flags else ("--out", tmp / "new" / "picture.png")
    image = image or an_image(tmp)
    return ("tools/sketch_demo.py", image, an_image(tmp), config, "none.pth", *flags, *out)


def both(**rows):
    """Make rows of the same mistake for both demos."""
    return {
        f"{demo.__name__}: {name.replace('_', ' ')}": (
            lambda tmp, demo=demo, flags=flags: demo(tmp, *flags(tmp)),
            says,
        )
        for name, (flags, says) in rows.items()
        for demo in (image_demo, sketch_demo)
    }


DEMO_MISTAKES = {
    **both(
        no_such_device=(lambda tmp: ("--device", "cuda:77"), r"--device cuda:77: .*--device cpu"),
        unknown_device=(lambda tmp: ("--device", "nonsense"), r"--device must be cpu.*'nonsense'"),
        score_above_1=(lambda tmp: ("--score-thr", "1.5"), r"--score-thr .*0 to 1, got 1\.5"),
        negative_score=(lambda tmp: ("--score-thr=-0.1",), r"--score-thr .*0 to 1, got -0\.1"),
        no_score=(lambda tmp: ("--score-thr", "nan"), r"--score-thr .*0 to 1, got nan"),
        unknown_ending=(
            lambda tmp: ("--out", tmp / "picture.xyz"),
            r"--out must end with one of \.png, \.jpg.*, got .*picture\.xyz",
        ),
        out_without_a_name=(lambda tmp: ("--out", ""), r"--out has no name: expected an image to"),
        no_ending=(lambda tmp: ("--out", tmp / "picture"), r"--out must end with one of \.png"),
        out_is_a_folder=(
            lambda tmp: ("--out", a_folder(tmp).rename(tmp / "folder.png")),
            r"cannot write .*folder\.png.*Is a directory",
        ),
        out_below_a_file=(
            lambda tmp: ("--out", an_image(tmp) / "picture.png"),
            r"cannot write .*picture\.png",
        ),
        out_is_the_image=(
            lambda tmp: ("--out", an_image(tmp)),
            r"--out .* would overwrite an input file",
        ),
        no_checkpoint=(lambda tmp: ("--mini",), r"no checkpoint at 'none\.pth'"),
    ),
    "checkpoint forgotten": (
        lambda tmp: ("tools/image_demo.py", an_image(tmp), CLASSIFIER),
        r"give the checkpoint after the config, or a file of hb export alone",
        2,
    ),
    "image missing": (
        lambda tmp: image_demo(tmp, image=tmp / "none.png"),
        r"no image at .*none\.png",
    ),
    "sketch demo: image missing": (
        lambda tmp: sketch_demo(tmp, image=tmp / "none.png"),
        r"no image at .*none\.png",
    ),
    "folder without files": (
        lambda tmp: image_demo(tmp, image=a_folder(tmp)),
        r"no file in the folder .*folder",
    ),
    "folder of images and one picture": (
        lambda tmp: image_demo(tmp, "--out", tmp / "all.png", image=a_folder(tmp, "a.png")),
        r"is a folder: expected a folder as --out, too, got .*all\.png",
    ),
    "folder of images whose figures have one name": (
        lambda tmp: image_demo(
            tmp, *("--out", tmp / "new"), image=a_folder(tmp, "a.jpg", "a.jpg.png")
        ),
        r"figures of .*a\.jpg and .*a\.jpg\.png would have one name, .*a\.jpg\.png: rename",
    ),
    "folder of images as out": (
        lambda tmp: image_demo(tmp, "--out", tmp / "folder", image=a_folder(tmp, "a.png")),
        r"--out .*folder is the folder of the images",
    ),
    "folder of other files": (
        lambda tmp: image_demo(
            tmp,
            *("--mini", "--out", tmp / "new"),
            image=a_folder(tmp, "a.txt", "b.png"),
            checkpoint=a_checkpoint(tmp),
        ),
        r"image .*a\.txt",
    ),
    "image of one row": (
        lambda tmp: image_demo(
            tmp, "--mini", image=an_image(tmp, (5000, 1)), checkpoint=a_checkpoint(tmp)
        ),
        r"strip of 5000×1 pixels: expected sides that differ by at most a factor of 100",
    ),
    "too few class names": (
        lambda tmp: image_demo(
            tmp,
            "--mini",
            checkpoint=a_checkpoint(tmp, meta=dict(dataset_meta=dict(classes=["only"]))),
            image=an_image(tmp),
        ),
        r"names of 1 classes, but class \d was predicted",
    ),
    "search by sketch without a sketch": (
        lambda tmp: image_demo(tmp, config=SEARCH),
        r"searches by sketch: use hb sketch-demo",
    ),
    "no search by sketch": (
        lambda tmp: sketch_demo(tmp, config=CLASSIFIER),
        r"expected a config that searches by sketch; see hb demo",
    ),
    "part of a config": (
        lambda tmp: image_demo(tmp, config="configs/_base_/runtime_detection.py"),
        r"runtime_detection\.py does not set model",
    ),
    "merged into another kind of file": (
        lambda tmp: ("tools/reparameterize.py", CLASSIFIER, "none.pth", tmp / "merged.onnx"),
        r"must end with \.pth, got .*merged\.onnx",
    ),
    "merged below a file": (
        lambda tmp: ("tools/reparameterize.py", CLASSIFIER, "none.pth", an_image(tmp) / "m.pth"),
        r"cannot write .*m\.pth",
    ),
    "merged over the checkpoint": (
        lambda tmp: (
            *("tools/reparameterize.py", CLASSIFIER, a_checkpoint(tmp), tmp / "epoch_1.pth"),
            "--mini",
        ),
        r"epoch_1\.pth exists and is not overwritten",
    ),
    "nothing to merge": (
        lambda tmp: (
            *("tools/reparameterize.py", CLASSIFIER, a_checkpoint(tmp), tmp / "merged.pth"),
            "--mini",
        ),
        r"no X-volution to merge",
    ),
}
