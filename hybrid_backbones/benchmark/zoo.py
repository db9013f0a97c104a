"""Model zoo page: parameters and FLOPs of each config beside the published ones.

The docstrings of the configs are the only place that holds published figures.
"""

import ast
import re
from pathlib import Path

from mmengine.config import Config

from ..checkpoints import PUBLISHED
from .costs import NUM_BOX_ROIS, NUM_MASK_ROIS, count_costs
from .tables import markdown_line
from .zoo_table import Row, significant

# height and width of published FLOPs, unless a docstring states others
SIZES = dict(mmdet=(800, 1280), mmseg=(512, 2048), mmpretrain=(224, 224))
# title of each group of configs, by the prefix of their names
GROUPS = {
    "imagenet": "Classification on ImageNet-1k",
    "fasterrcnn": "Faster R-CNN on COCO",
    "maskrcnn": "Mask R-CNN on COCO",
    "cascade_maskrcnn": "Cascade Mask R-CNN on COCO",
    "cascade_rcnn": "Cascade R-CNN on COCO",
    "retinanet": "RetinaNet on COCO",
    "rtmdet": "RTMDet on COCO",
    "rtmdetins": "RTMDet-Ins on COCO",
    "deformable_detr": "Deformable DETR on COCO",
    "dino": "DINO on COCO",
    "mask2former_coco": "Mask2Former on COCO",
    "upernet": "UperNet on ADE20K",
    "fpn": "Semantic FPN on ADE20K",
    "segformer": "SegFormer's head on ADE20K",
    "mask2former_ade": "Mask2Former on ADE20K",
    "locformer": "LocFormer on COCO with QuickDraw",
}
# publication of each backbone
SOURCES = {
    "ACmixResNet": "[ACmix](https://github.com/LeapLabTHU/ACmix)",
    "ACmixSwin": "[ACmix](https://github.com/LeapLabTHU/ACmix)",
    "BiFormer": "[BiFormer](https://github.com/rayleizhu/BiFormer)",
    "SwinRAM": "[LocFormer](https://arxiv.org/abs/2303.08784)",
    "SketchGuided": "[LocFormer](https://arxiv.org/abs/2303.08784)",
    "MixFormer": "[MixFormer](https://arxiv.org/abs/2204.02557)",
    "ResNet": "[OpenMMLab](https://github.com/open-mmlab)",
    "SwiftFormer": "[SwiftFormer](https://github.com/Amshaker/SwiftFormer)",
    "UniFormer": "[UniFormer](https://github.com/Sense-X/UniFormer)",
    "UniFormerLight": "[UniFormer](https://github.com/Sense-X/UniFormer)",
    "XVolutionResNet": "[X-volution](https://arxiv.org/abs/2106.02253)",
}
SOURCES["ResNetV1c"] = SOURCES["ResNet"]
# golden files that the features of a backbone are compared with, by type and size
VERIFIED = {
    ("ACmixResNet", 26): ["acmix_resnet26"],
    ("ACmixResNet", 50): ["acmix_resnet50"],
    ("ACmixSwin", "tiny"): ["acmix_swin_tiny"],
    ("BiFormer", "small"): ["biformer_small_det", "biformer_small_seg"],
    ("BiFormer", "stl"): ["biformer_stl_nchw"],
    ("BiFormer", "tiny"): ["biformer_tiny", "biformer_tiny_det"],
    ("MixFormer", "b0"): ["mixformer_b0"],
    ("MixFormer", "b1"): ["mixformer_b1"],
    ("MixFormer", "b4"): ["mixformer_b4"],
    ("SwiftFormer", "l1"): ["swiftformer_l1", "swiftformer_l1_feat"],
    ("SwiftFormer", "xs"): ["swiftformer_xs", "swiftformer_xs_feat"],
    ("UniFormer", "small"): ["uniformer_small", "uniformer_det_small_global"],
    ("UniFormer", "small_plus"): ["uniformer_small_plus"],
    ("UniFormerLight", "xxs"): ["uniformer_xxs", "uniformer_det_xxs"],
}
# why a count deviates from the published one
REASONS = {
    "fpn_uniformer_s_h14": "172G fits no other figure: UperNet's two rows differ by 57G, as ours "
    "do here and there, and Semantic FPN with UniFormer-B h14 agrees.",
    "imagenet_acmix_r26": "The published code has 10.49M parameters, as ours; what its README "
    "counts as FLOPs is not said.",
    "imagenet_acmix_r50": "As `imagenet_acmix_r26`: the published code has 18.33M parameters.",
    "imagenet_acmix_swin_t": "The published code has 28.65M parameters, as ours; its README rounds "
    "up.",
    "imagenet_mixformer_b3": "What PaddleClas counts is not said; the same backbone agrees within "
    "0.1 % in Mask R-CNN and UperNet.",
    "imagenet_mixformer_b4": "As `imagenet_mixformer_b3`.",
    "imagenet_uniformer_l_ls_tl": "Parameters agree; by hand, the blocks of the four stages "
    "alone take 2.6, 2.9, 11.3 and 1.7G at the published sizes.",
    "imagenet_uniformer_s_plus_tl": "With the second classifier, which is not counted there.",
    "locformer_swin_t": "The released code keeps parameters that it never uses: of its 1203 "
    "entries 884 take part.",
}


def find_configs(folder: Path) -> list[Path]:
    """Find the configs of the zoo: all but those for own data, which train models of others."""
    return sorted(path for path in folder.glob("*.py") if not path.stem.startswith("own_data_"))


def measure_config(path: Path) -> Row:
    """Build the model of a config and count its costs, without data or weights."""
    cfg = Config.fromfile(path)
    published = read_published(path)
    size = published_size(published, cfg.default_scope)
    params, macs = count_costs(cfg, size)
    return Row(
        config=path.stem,
        backbone=cfg.model.backbone.type,
        arch=cfg.model.backbone.get("arch") or cfg.model.backbone.get("depth", ""),
        size=size,
        params=params / 1e6,
        published_params=_figure(published, r"([\d.]+)M parameters"),
        macs=macs / 1e9,
        published_macs=_figure(published, r"([\d.]+)G FLOPs"),
        published=published,
        weights=read_weights(path),
    )


def published_size(published: str, scope: str) -> tuple[int, int]:
    """Return height and width of the images for which FLOPs are published."""
    stated = re.search(r"at (\d+)×(\d+)", published)
    return (int(stated[1]), int(stated[2])) if stated else SIZES[scope]


def read_published(path: Path) -> str:
    """Return the published results in the docstring of a config as one line."""
    if text := published_of(path):
        return text
    raise ValueError(f"the docstring of {path} has no line that begins with 'Published:'")


def published_of(path: Path) -> str:
    """Return the same, or an empty text for a config of one's own, which may name no result."""
    return _read_entry(path, "Published")


def read_weights(path: Path) -> list[str]:
    """Return the names of the published checkpoints in the docstring of a config."""
    return [word for word in _read_entry(path, "Weights").split() if word in PUBLISHED]


def _read_entry(path: Path, title: str) -> str:
    """Return an entry in the docstring of a config as one line, empty if there is none."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = re.search(rf"^{title}: +(.*(?:\n +.*)*)", docstring, re.MULTILINE)
    return re.sub(r"\s+", " ", lines[1]) if lines else ""


def _figure(text: str, pattern: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def write_zoo(rows: list[Row]) -> str:
    """Return the model zoo page in Markdown."""
    parts = [INTRODUCTION]
    for prefix, title in GROUPS.items():
        group = [row for row in rows if re.fullmatch(rf"{prefix}_.*", row.config)]
        lines = [_line(row) for row in group]
        parts.append("\n".join([f"## {title}\n", *HEADER, *lines]))
    notes = [
        f"- `{row.config}`: {_ratios(row)} of the published figure. {REASONS.get(row.config, '')}"
        for row in rows
        if row.deviations
    ]
    title = "## Where a count misses the published one by over 2 %, and does not round to it\n"
    parts.append("\n".join([title, *notes]))
    return "\n\n".join(parts) + "\n"


HEADER = (
    "| config | params (M) | published | FLOPs (G) | published | at | published result | weights "
    "| source | features |",
    f"|{' --- |' * 10}",
)
INTRODUCTION = f"""\
# Model zoo

Written by `python tools/model_zoo.py`; a test keeps it up to date. Nothing here was trained:
results are those of the publications.

Weights are the authors' files, by name: `python tools/weights.py get NAME` downloads one (of
BiFormer's no address works any more), `python tools/test.py configs/CONFIG.py NAME` evaluates it
(with the `--cfg-options` that `python tools/weights.py list NAME` prints for some),
with `--tta` with flips and, but for classifiers, at many scales, and
`python tools/reproduce.py NAME` does all that was published of it and notes what comes out
([reproduced.md](reproduced.md)). `python tools/train.py configs/CONFIG.py --pretrained` starts from
the ImageNet weights that a detector or segmentor was published from.

Parameters are those of the whole model. FLOPs are products (multiply-accumulates) of convolutions,
linear layers and attention in the whole model for one image, {NUM_BOX_ROIS} boxes and
{NUM_MASK_ROIS} masks, without what normalisation, activations, resizing and sampling cost;
LocFormer's include the sketches of one query. Features: ✓ where those of the published
implementation are equal to ours within 1e-4 (`tests/backbones/test_golden.py`); other sizes are
built by the same code from published tables.

**SwiftFormer has two attentions.** Its first release (March to July 2023, and the port in
transformers) computes another form than the present code, whose weights replaced the first under
the same links and are those of timm. Names and shapes are equal: weights of one load into the other
and give nonsense. Weights of the first release need `backbone=dict(first_release=True)`."""


def _line(row: Row) -> str:
    verified = "✓" if (row.backbone, row.arch) in VERIFIED else "-"
    cells = [
        f"`{row.config}`",
        f"{row.params:.1f}",
        row.published_params or "-",
        significant(row.macs),
        row.published_macs or "-",
        f"{row.size[0]}×{row.size[1]}",
        row.published,
        ", ".join(f"`{name}`" for name in row.weights) or "-",
        SOURCES[row.backbone],
        verified,
    ]
    return markdown_line(cells)


def _ratios(row: Row) -> str:
    return " and ".join(f"{name} {ratio:.3f}" for name, ratio in row.deviations.items())
