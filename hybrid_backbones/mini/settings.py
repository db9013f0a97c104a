"""Settings in the nested dicts and lists of a config."""

from collections.abc import Iterator

from mmengine.config import ConfigDict


def dicts(settings) -> Iterator[ConfigDict]:
    """Iterate over all dicts in nested dicts and lists."""
    if isinstance(settings, dict):
        yield settings
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from dicts(value)


def set_num_classes(model: ConfigDict, num_classes: int) -> None:
    """Set the number of classes of all heads and losses of a model, in place.

    Args:
        model: settings of the model, or of a part of it.
        num_classes: number of classes; with panoptic heads, all of them are things.
    """
    for part in dicts(model):
        if "num_classes" in part:
            part.num_classes = num_classes
        if "num_things_classes" in part:
            part.update(num_things_classes=num_classes, num_stuff_classes=0)
        if "num_queries" in part:
            for loss in dicts(part):
                _fit_weights(loss, num_classes)


def _fit_weights(loss: ConfigDict, num_classes: int) -> None:
    """Fit the class weights of a loss of queries; those of another number of classes become 1."""
    weights = loss.get("class_weight")
    # the last one is that of no object
    if isinstance(weights, list) and len(weights) != num_classes + 1:
        loss.class_weight = [1.0] * num_classes + weights[-1:]
