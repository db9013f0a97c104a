"""Checks before training starts: data files, complete batches, length of the schedule."""

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from torch.utils.data import BatchSampler, DataLoader

from ..backbones.base import HierarchicalBackbone
from ..settings import type_name
from .stop import RestOfEpoch

# environment variable with the data root of each framework's configs
ROOT_VARIABLES = dict(mmdet="COCO_ROOT", mmseg="ADE_ROOT", mmpretrain="IMAGENET_ROOT")

# datasets whose `split` is the name of a folder; in other datasets it selects annotations
FOLDER_SPLITS = ("ImageNet", "ImageNet21k")

# necks that return maps of as many channels as they take
CHANNEL_KEEPING_NECKS = ("GlobalAveragePooling",)


def require_data(cfg: Config, dataset: dict) -> None:
    """Check that the files and folders of a dataset exist.

    Raises:
        ValueError: if any is missing; the message names them and says how to set the data root.
    """
    root = Path(dataset.get("data_root") or "")
    prefix = dataset.get("data_prefix", {})
    expected = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    has_folder = type_name(dataset.get("type")) in FOLDER_SPLITS
    keys = ("ann_file", "split") if has_folder else ("ann_file",)
    expected += [dataset[key] for key in keys if dataset.get(key)]
    missing = [name for name in expected if name and not (root / name).exists()]
    if missing:
        variable = ROOT_VARIABLES.get(cfg.get("default_scope"), "data_root in the config")
        raise ValueError(
            f"no data at {root}: {', '.join(missing)} not found. Set {variable} to a folder that "
            f"contains {', '.join(expected)}, or add --mini to run on the embedded set"
        )


def require_channels(model: Mapping[str, Any], backbone: Any) -> None:
    """Check that what reads the feature maps of one of our backbones expects their channels.

    That is the neck, or without one the heads.

    Args:
        model: settings of the model.
        backbone: its backbone, as built.

    Raises:
        ValueError: if the channels differ; the message says how to set them.
    """
    if not isinstance(backbone, HierarchicalBackbone):
        return
    necks = model.get("neck")
    neck = necks[0] if isinstance(necks, Sequence) else necks
    if neck and "in_channels" in neck:
        readers = {"neck.0" if isinstance(necks, Sequence) else "neck": neck}
    elif neck and neck.get("type") not in CHANNEL_KEEPING_NECKS:
        return
    else:
        heads = {key: part for key, part in model.items() if key.endswith("head")}
        readers = {key: head for key, head in heads.items() if isinstance(head, Mapping)}
    for name, reader in readers.items():
        given = reader.get("in_channels")
        if given is None:
            continue
        _require_channels(f"model.{name}", given, reader.get("in_index"), backbone.out_channels)


def _require_channels(name: str, given: Any, index: Any, channels: Sequence[int]) -> None:
    """Check the `in_channels` of one reader, which takes the maps of these indices."""
    several = isinstance(given, Sequence)
    given = list(given) if several else given
    if index is None:  # hosts take all maps, or the last
        index = range(len(channels)) if several else -1
    try:
        wanted = [channels[i] for i in index] if several else channels[index]
    except TypeError as error:
        raise ValueError(
            f"{name}.in_channels and in_index must be two numbers or two lists, got {given} and "
            f"{index}"
        ) from error
    except IndexError as error:
        raise ValueError(
            f"{name}.in_index is {index}, but the backbone returns {len(channels)} maps: set "
            f"{name}.in_index or model.backbone.out_indices"
        ) from error
    # some necks, such as YOLOV3Neck, count from the deepest map
    if given not in (wanted, wanted[::-1] if several else wanted):
        text = str(wanted).replace(" ", "")
        raise ValueError(
            f"{name}.in_channels is {given}, but the backbone's maps have {wanted} channels: set "
            f"{name}.in_channels={text}"
        )


def require_length(train_cfg: dict) -> None:
    """Check the numbers of epochs and iterations, and the validation interval.

    Raises:
        ValueError: if one of them is not a positive integer.
    """
    for name in ("max_epochs", "max_iters", "val_interval"):
        value = train_cfg.get(name, 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"train_cfg.{name} must be a positive integer, got {value!r}")


class IterationsHook(Hook):
    """Hook that stops the training after an epoch without an iteration.

    :func:`require_batches` knows only PyTorch's batch sampler. mmdet's AspectRatioBatchSampler, for
    example, fills a batch with images of one kind, wide or high, but its length counts all images.
    """

    # runs before the hook that saves a checkpoint
    priority = "VERY_HIGH"

    def before_train_epoch(self, runner) -> None:
        """Store the number of iterations so far."""
        self.num_done = runner.iter

    def after_train_epoch(self, runner) -> None:
        """Raise a ValueError if this number has not changed."""
        # of an epoch that was stopped after its last batch, nothing is left to do
        rest = isinstance(runner.train_dataloader.batch_sampler, RestOfEpoch)
        if runner.iter == self.num_done and not rest:
            raise ValueError(
                f"epoch {runner.epoch + 1} had no iteration, since the training set has no "
                "complete batch: lower train_dataloader.batch_size, or set drop_last=False of "
                "train_dataloader or its batch_sampler"
            )


def require_batches(loader: DataLoader) -> None:
    """Check that the training set has at least one batch for each process.

    Raises:
        ValueError: if the set is empty, or has no complete batch while `drop_last` is set.
    """
    if not isinstance(loader.dataset, Sized):
        return
    num_samples, num_processes = len(loader.dataset), get_world_size()
    if not num_samples:
        raise ValueError(
            "the training set is empty: check data_root, ann_file and filter_cfg of "
            "train_dataloader.dataset"
        )
    batches = loader.batch_sampler
    # an infinite sampler fills a batch with several passes over the set
    if not isinstance(batches, BatchSampler) or isinstance(batches.sampler, InfiniteSampler):
        return
    if not len(loader):
        among = f" for {num_processes} processes" if num_processes > 1 else ""
        raise ValueError(
            f"the training set has {num_samples} samples{among}, less than a batch of "
            f"{batches.batch_size}, and drop_last=True drops incomplete batches: "
            "lower train_dataloader.batch_size, or set train_dataloader.drop_last=False"
        )
