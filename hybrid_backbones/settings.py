"""Settings of a config in every form that the hosts take: types, sizes, and sets within sets."""

from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS


def type_name(kind: Any) -> str:
    """Return the name of a type that is a class, or a name with or without its scope or module.

    Configs in mmengine's pure Python style have classes.
    """
    return str(getattr(kind, "__name__", kind)).rpartition(".")[2]


def both_sides(scale: Any) -> tuple[int, int]:
    """Return the width and height of mmcv's `Resize`, where one number stands for both."""
    return (scale, scale) if isinstance(scale, int) else tuple(scale)


def innermost_datasets(settings: ConfigDict) -> list[ConfigDict]:
    """Return the sets in wrappers such as `ConcatDataset` and `RepeatDataset`, or the set itself.

    Args:
        settings: settings of a set.
    """
    inside = [settings["dataset"]] if "dataset" in settings else settings.get("datasets")
    return [one for part in inside for one in innermost_datasets(part)] if inside else [settings]


def tested_dataset(cfg: Config) -> ConfigDict:
    """Return the settings of a config's test set without wrappers; of several sets, the first.

    Raises:
        ValueError: if the config has none.
    """
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    if dataset is None:
        raise ValueError(
            f"the config {cfg.filename} does not set test_dataloader.dataset, which has the steps "
            "of the pipeline and, unless the checkpoint names them, the classes: set it"
        )
    return innermost_datasets(dataset)[0]


def tested_metainfo(cfg: Config) -> dict[str, Any]:
    """Return what a config's test set says of its classes.

    Raises:
        ValueError: if the config has none.
    """
    # lazy, so that the files of the dataset are not required
    dataset: Any = DATASETS.build(dict(tested_dataset(cfg), lazy_init=True, pipeline=[]))
    return dataset.metainfo
