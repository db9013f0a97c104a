"""What users do wrong with exports and exported files: rows for the table of mistakes.

Each is the command line in an empty folder, what the one line must say, and perhaps the exit code.
"""

import zipfile

import torch
from demo_mistakes import CLASSIFIER, a_checkpoint, a_folder, an_image
from torch import nn

from hybrid_backbones.deploy import export_onnx


class Brightness(nn.Module):
    def forward(self, images):
        return images.float().mean((2, 3))


def a_program(tmp, **metadata):
    """Export a program for images of 40×40 pixels."""
    out = tmp / "file.pt2"
    export_onnx(
        Brightness(),
        out,
        40,
        example=lambda *shape: torch.zeros(shape[0], 3, *shape[1:], dtype=torch.uint8),
        output_names=["probabilities"],
        metadata=dict(preprocessing=dict(resize=None), palette=[[0, 0, 0]] * 3, **metadata),
    )
    return out


def a_package(tmp):
    """Write what AOTInductor's files are known by."""
    with zipfile.ZipFile(tmp / "file.pt2", "w") as archive:
        archive.writestr("file/data/aotinductor/model/a.so", "not a program")
    return tmp / "file.pt2"


def export(tmp, *flags, out="new/a.onnx"):
    return (
        *("tools/export.py", CLASSIFIER, a_checkpoint(tmp), tmp / out),
        *("--mini", "--no-compile", "--size", 64, 64, *flags),
    )


def draw(tmp, *arguments, image=None):
    out = ("--out", tmp / "new/picture.png")
    return ("tools/image_demo.py", image or an_image(tmp), *arguments, *out)


def classifier(tmp):
    return a_program(tmp, task="classify", classes=["red", "green", "blue"])


EXPORT_MISTAKES = {
    "export to a file that cannot be written": (
        lambda tmp: export(tmp, out=f"{an_image(tmp).name}/a.onnx"),
        r"cannot write .*a\.onnx",
    ),
    "export at no size": (
        lambda tmp: export(tmp, "--size", 0, 64),
        r"size must be one or two positive numbers, got \[0, 64\]",
    ),
    "export with resizing where nothing is resized": (
        lambda tmp: export(tmp, "--resize"),
        r"--resize: the test pipeline of the config does not resize",
    ),
    "int8 at no size": (
        lambda tmp: export(
            tmp, "--int8", a_folder(tmp, *(f"{i}.png" for i in range(8))), "--size", 0, 0
        ),
        r"size must be one or two positive numbers, got \[0, 0\]",
    ),
    "int8 with images of no folder": (
        lambda tmp: export(tmp, "--int8", tmp / "none"),
        r"no folder '.*none': expected one of images for calibration",
    ),
    "int8 of a variable that is not set": (
        lambda tmp: export(tmp, "--int8", ""),
        r"no folder '': expected one of images for calibration",
    ),
    "int8 without images": (
        lambda tmp: export(tmp, "--int8", tmp),
        r"\d images in .*: calibration needs at least 8",
    ),
    "int8 with damaged images": (
        lambda tmp: export(tmp, "--int8", a_folder(tmp, *(f"{i}.png" for i in range(8)))),
        r"image .*0\.png is truncated or not an image",
    ),
    "int8 of a program": (
        lambda tmp: export(tmp, "--int8", "data/mini/imagenet/val", out="new/a.pt2"),
        r"--int8 is for ONNX: expected a file that ends with \.onnx",
    ),
    "resizing of a program": (
        lambda tmp: export(tmp, "--resize", out="new/a.pt2"),
        r"--resize is for ONNX: expected a file that ends with \.onnx",
    ),
    "aot of onnx": (
        lambda tmp: export(tmp, "--aot"),
        r"--aot writes packages that end with \.pt2, got .*a\.onnx",
    ),
    "float16 in 8 bits": (
        lambda tmp: export(tmp, "--fp16", "--int8", tmp),
        r"argument --int8: not allowed with argument --fp16",
        2,
    ),
    "draw from a file that is missing": (
        lambda tmp: draw(tmp, tmp / "none.onnx"),
        r"no file at .*none\.onnx: expected a file of hb export",
    ),
    "draw from a file of another program": (
        lambda tmp: draw(tmp, an_image(tmp).rename(tmp / "a.onnx"), image=an_image(tmp)),
        r"a\.onnx cannot be opened: .",
    ),
    "draw from a program that is compiled": (
        lambda tmp: draw(tmp, a_package(tmp)),
        r"file\.pt2 is compiled by AOTInductor, .*add --dangerously-run-code-in-checkpoints",
    ),
    "draw an image of another size": (
        lambda tmp: draw(tmp, classifier(tmp)),
        r"file\.pt2 takes images of 40x40 pixels .*, got 40x60: resize the image, or export with",
    ),
    "draw feature maps": (
        lambda tmp: draw(tmp, a_program(tmp, task="backbone")),
        r"file\.pt2 gives probabilities, which are not drawn: expected an exported classifier",
    ),
    "draw from a file on a GPU": (
        lambda tmp: draw(tmp, classifier(tmp), "--device", "cuda"),
        r"exported files run on the CPU here: leave out --device cuda",
    ),
    "draw from a file with options of a config": (
        lambda tmp: draw(tmp, classifier(tmp), "--mini"),
        r"--mini and --cfg-options are for a config and its checkpoint",
        2,
    ),
}
