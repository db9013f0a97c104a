"""Mini preset of RetinaNet's head: norms, and half of the width and depth.

The convolutions of the head are initialised with a standard deviation of 0.01 and have no norms.
Each of four in a row then passes on a third of its input, so that scores hardly depend on the image
for long, which ImageNet weights and a long training make up for, and a run of minutes does not. At
COCO's width head and pyramid cost twice as much as a small backbone, which leaves too few steps.
Each random convolution also mixes an object with its surroundings: behind four, the classes could
hardly be told from each other.
"""

from mmengine.config import ConfigDict

WIDTH, NUM_CONVS = 128, 2
# not batch normalisation, since batches are small
NORM = dict(type="GN", num_groups=32)


def is_retina(model: ConfigDict) -> bool:
    """Return whether a detector has RetinaNet's own head behind a plain feature pyramid."""
    parts = (model.get(key) for key in ("neck", "bbox_head"))
    # other necks are lists, or have widths that depend on each other
    return [isinstance(part, dict) and part.get("type") for part in parts] == ["FPN", "RetinaHead"]


def shrink_retina(model: ConfigDict) -> None:
    """Normalise and shrink the head of a RetinaNet, and its pyramid, in place."""
    model.neck.out_channels = WIDTH
    model.bbox_head.update(
        in_channels=WIDTH, feat_channels=WIDTH, norm_cfg=NORM, stacked_convs=NUM_CONVS
    )
