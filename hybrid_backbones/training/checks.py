"""What a training needs, checked before it begins: data, whole batches, a length."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader, IterableDataset

# the variable that says where the data of each framework's configs lies
ROOT_VARIABLES = dict(mmdet="COCO_ROOT", mmseg="ADE_ROOT", mmpretrain="IMAGENET_ROOT")


def require_data(cfg: Config, dataset: dict) -> None:
    """Look for the files and folders that a data set of the config names.

    Raises:
        ValueError: says which are missing, and how to name others.
    """
    root = Path(dataset.get("data_root") or "")
    prefix = dataset.get("data_prefix", {})
    expected = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    expected += [dataset[key] for key in ("ann_file", "split") if dataset.get(key)]
    missing = [name for name in expected if name and not (root / name).exists()]
    if missing:
        variable = ROOT_VARIABLES.get(cfg.get("default_scope"), "data_root in the config")
        raise ValueError(
            f"no data at {root}: {', '.join(missing)} not found. Set {variable} to a folder that "
            f"has {', '.join(expected)}, or add --mini to run on the embedded set"
        )


def require_length(train_cfg: dict) -> None:
    """Check the numbers that a training loop counts with.

    Raises:
        ValueError: for what is no positive integer.
    """
    for name in ("max_epochs", "max_iters", "val_interval"):
        value = train_cfg.get(name, 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"train_cfg.{name} must be a positive integer, got {value!r}")


def require_batches(loader: DataLoader) -> None:
    """Check that there is something to train on, in each process.

    Raises:
        ValueError: for an empty set, and for one that has no whole batch.
    """
    if isinstance(loader.dataset, IterableDataset):
        return
    num_samples, num_processes = len(loader.dataset), get_world_size()
    if not num_samples:
        raise ValueError(
            "the training set is empty: check data_root, ann_file and filter_cfg of "
            "train_dataloader.dataset"
        )
    # one that never ends fills a batch with several passes over the set
    if not isinstance(loader.batch_sampler.sampler, InfiniteSampler) and not len(loader):
        among = f" for {num_processes} processes" if num_processes > 1 else ""
        raise ValueError(
            f"the training set has {num_samples} samples{among}, less than a batch of "
            f"{loader.batch_sampler.batch_size}, and drop_last=True leaves out what is less: lower "
            "train_dataloader.batch_size, or set train_dataloader.drop_last=False"
        )
