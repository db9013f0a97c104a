"""Colours in which the classes of a data set are drawn."""

from typing import Any

from mmdet.visualization import get_palette


def palette_for(palette: Any, num_classes: int) -> list[tuple[int, ...]]:
    """Return a palette as it is, but random colours if it has fewer than there are classes.

    Args:
        palette: RGB colours of a data set, or what it has instead.
        num_classes: number of classes.
    """
    if not isinstance(palette, list | tuple) or len(palette) < num_classes:
        palette = get_palette("random", num_classes)
    # without numpy's numbers, since checkpoints keep them
    return [tuple(map(int, color)) for color in palette]
