"""Mini preset of heads without RoIs: half of their depth; in RetinaNet, norms and half the width.

Each random convolution mixes an object with its surroundings, so that behind several in a row the
classes can hardly be told from each other for long. ImageNet weights and a long training make up
for that, and a run of minutes does not.

RetinaNet's convolutions, moreover, are initialised with a standard deviation of 0.01 and have no
norms: each passes on a third of its input, so that scores hardly depend on the image. At COCO's
width its head and pyramid cost twice as much as a small backbone, which leaves too few steps.
"""

from mmengine.config import ConfigDict

from .settings import dicts

WIDTH = 128
# not batch normalisation, since batches are small
NORM = dict(type="GN", num_groups=32)


def halve_depth(model: ConfigDict) -> None:
    """Halve the number of convolutions in a row of a detector's dense heads, in place."""
    for part in dicts(model):
        if "stacked_convs" in part:
            part.stacked_convs = max(1, part.stacked_convs // 2)


def is_retina(model: ConfigDict) -> bool:
    """Return whether a detector has RetinaNet's own head behind a plain feature pyramid."""
    parts = (model.get(key) for key in ("neck", "bbox_head"))
    # other necks are lists, or have widths that depend on each other
    return [isinstance(part, dict) and part.get("type") for part in parts] == ["FPN", "RetinaHead"]


def shrink_retina(model: ConfigDict) -> None:
    """Normalise and narrow the head of a RetinaNet, and its pyramid, in place."""
    model.neck.out_channels = WIDTH
    model.bbox_head.update(in_channels=WIDTH, feat_channels=WIDTH, norm_cfg=NORM)
