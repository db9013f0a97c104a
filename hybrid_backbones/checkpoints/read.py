"""Reading of checkpoints: weights and meta data, from wherever they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from .fetch import describe, fetch
from .files import read_weights
from .paddle import from_paddle, is_paddle

# keys under which training scripts store the weights, in the order in which they are tried
STATE_DICT_KEYS = ("state_dict", "model")


def read_state_dict(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of any training script.

    Args:
        checkpoint: what :func:`fetch` takes, or a loaded dict: of the weights, or of a dict that
            holds them under ``state_dict`` or ``model``. Paddle's arrays are converted.

    Raises:
        ValueError: if the file does not exist, is not a checkpoint or holds no weights.
    """
    content = read_checkpoint(checkpoint)
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    content = content if isinstance(content, Mapping) else {type(content).__name__: content}
    if is_paddle(content):
        content = from_paddle(content)
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ValueError(
            "no weights in the checkpoint: expected named tensors, bare or under one of "
            f"{STATE_DICT_KEYS}, got other entries {others[:8]}"
        )
    for name, value in content.items():
        if unusable := _unusable(value):
            raise ValueError(
                f"{name} of the checkpoint is {unusable}: expected dense tensors, as in "
                "model.state_dict()"
            )
    state_dict = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): x for name, x in state_dict.items()}
    return state_dict


def read_checkpoint(checkpoint: str | Path | Mapping, map_location: Any = "cpu") -> Mapping:
    """Read the whole content of a checkpoint, without running code in it.

    Content that is already loaded is returned as it is.

    Args:
        checkpoint: what :func:`fetch` takes, or loaded content.
        map_location: as in `torch.load`.

    Raises:
        ValueError: if there is no such file, it is not a checkpoint or it is damaged.
    """
    if not isinstance(checkpoint, str | Path):
        return checkpoint
    path = fetch(checkpoint)
    content = read_weights(path, map_location)
    print_log(f"read {path}: {describe(path)}", logger="current")
    return content


def dataset_meta(checkpoint: str | Path | Mapping) -> dict | None:
    """Return the description of the training data that a checkpoint holds.

    Returns:
        a dict with names under `classes`, and for segmentation colours under `palette`; None if
        the checkpoint holds none, as published weights do.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    # as mmdet 2 and mmseg 0.x saved it, in capitals
    before = {key.lower(): meta[key] for key in ("CLASSES", "PALETTE") if meta.get(key)}
    found = meta.get("dataset_meta", before)
    if not isinstance(found, Mapping):
        return None
    classes = found.get("classes")
    is_named = isinstance(classes, list | tuple) and all(isinstance(x, str) for x in classes)
    return dict(found) if classes and is_named else None


def _unusable(value: Tensor) -> str | None:
    """Return why a tensor cannot become an entry of a model, or None if it can."""
    if value.is_meta:
        return "a meta tensor, which has no values"
    if value.is_quantized:
        return f"a quantised tensor ({value.dtype})"
    if value.layout != torch.strided or value.is_nested:
        return f"a tensor of another layout ({value.layout})"
    return None
