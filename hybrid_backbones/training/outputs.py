"""Where a run writes, so that it overwrites nothing that a user has: settings, and pictures."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.runner import Runner

# settings of each framework's visualisation hook: its switch, and its output folder if it has one
SHOW_DIR_KEYS = dict(
    mmdet=("draw", "test_out_dir"), mmseg=("draw", None), mmpretrain=("enable", "out_dir")
)


class RunnerBesideConfig(Runner):
    """Runner that saves its settings beside its log, not over a config in the work dir."""

    @master_only
    def dump_config(self) -> None:
        """Save the settings in the folder of the run that has its time for a name."""
        name = Path(self.cfg.filename or f"{self.timestamp}.py").name
        self.cfg.dump(Path(self.log_dir, name))


def require_different_names(scope: str, dataset: Any) -> None:
    """Check that no two images of a set have one name, after which most hosts name figures.

    Args:
        scope: `default_scope` of the config.
        dataset: set of the images.

    Raises:
        ValueError: if two have.
    """
    # mmseg, which has no folder of its own, counts the figures
    if SHOW_DIR_KEYS[scope][1] is None:
        return
    paths: dict[str, str] = {}
    for i in range(len(dataset)):
        path = dataset.get_data_info(i).get("img_path")
        if path is None:  # images that are no files
            return
        other = paths.setdefault(Path(path).name, path)
        if other != path:
            raise ValueError(
                f"--show-dir names figures as their images, but {other} and {path} have one name: "
                "rename one, or draw each folder by `hb demo`"
            )


def show_in(cfg: Config, folder: Path) -> None:
    """Let the visualisation hook save every image of the test set in a folder.

    Raises:
        ValueError: if the config has no such hook, or the folder is one of the images, which would
            be overwritten.
    """
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise ValueError(
            "--show-dir needs the config to set default_hooks.visualization, but it does not"
        )
    dataset = cfg.test_dataloader.dataset
    prefixes = dataset.get("data_prefix") or dataset.get("split") or {}
    # a set of mmpretrain has one folder, without a name
    named = [("img", prefixes)] if isinstance(prefixes, str) else prefixes.items()
    for name, prefix in named:
        images = Path(dataset.get("data_root") or "", prefix).resolve()
        if name.startswith("img") and folder.resolve().is_relative_to(images):
            raise ValueError(f"--show-dir {folder} has images of the test set: choose another")
    switch, key = SHOW_DIR_KEYS[cfg.default_scope]
    hook[switch], hook.interval = True, 1
    if key:
        hook[key] = str(folder)
    else:
        cfg.visualizer.save_dir = str(folder)
