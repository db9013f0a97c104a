"""Models that the playground serves: each is loaded at its first use, once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer

from ..inference.demo import build_pipeline, build_trained, build_visualizer, read_dataset_meta
from ..settings import tested_dataset, type_name
from ..training.requirements import require_keys

# what a model does, by the scope of its config
TASKS = dict(mmdet="detect", mmseg="segment", mmpretrain="classify")
# building needs the default scope of its framework, which all threads share
_BUILDING = Lock()


class Loaded(NamedTuple):
    """A model in memory, in evaluation mode, with what it needs to be used."""

    cfg: Config
    net: BaseModel
    meta: dict  # classes, a list of names, and palette, a list of RGB colours
    pipeline: Compose  # of tests, after the step that loads an image
    visualizer: Visualizer | None  # None for detectors by sketch


class Model:
    """A trained model, which one request uses at a time.

    Args:
        name: name on the page.
        cfg: config of the model.
        checkpoint: checkpoint as for ``tools/test.py``; or a function that returns it, or raises
            ValueError with the sentence that says why there is none yet.
        device: device of the model, such as 'cpu' or 'cuda:0'.

    Raises:
        ValueError: if the config lacks what is needed, or is of another framework.
    """

    def __init__(
        self,
        name: str,
        cfg: Config,
        checkpoint: str | Path | Callable[[], Path],
        device: str = "cpu",
    ):
        require_keys(cfg, "default_scope", "model", "test_dataloader")
        if cfg.default_scope not in TASKS:
            raise ValueError(
                f"default_scope of {name} must be one of {[*TASKS]}, got {cfg.default_scope!r}"
            )
        by_sketch = type_name(tested_dataset(cfg).type) == "SketchCocoDataset"
        self.task = "sketch" if by_sketch else TASKS[cfg.default_scope]
        if not by_sketch:
            require_keys(cfg, "visualizer")
        self.name, self.cfg, self.device = name, cfg, device
        self._checkpoint = checkpoint
        self._loaded: Loaded | None = None
        self._in_use = Lock()

    @property
    def checkpoint(self) -> str | Path:
        """The checkpoint; ValueError if there is none yet."""
        return self._checkpoint() if callable(self._checkpoint) else self._checkpoint

    @property
    def doing(self) -> str:
        """What a request does first, for its progress."""
        return f"Running {self.name}" if self._loaded else f"Loading {self.name} (first use)"

    @contextmanager
    def in_use(self) -> Iterator[Loaded]:
        """Hand out the model, loaded if it is not, to this thread alone.

        Raises:
            ValueError: if the checkpoint is missing, damaged or does not fit the model.
        """
        with self._in_use:
            if self._loaded is None:
                self._loaded = self._load()
            yield self._loaded

    def _load(self) -> Loaded:
        checkpoint = self.checkpoint
        with _BUILDING:
            init_default_scope(self.cfg.default_scope)
            net = build_trained(self.cfg, checkpoint, self.device)
            # sketches are drawn on the page
            _, pipeline = build_pipeline(self.cfg, "RenderSketch")
            if self.task == "sketch":
                meta = read_dataset_meta(self.cfg, checkpoint)
                return Loaded(self.cfg, net, meta, pipeline, None)
            visualizer = build_visualizer(self.cfg, checkpoint)
            return Loaded(self.cfg, net, visualizer.dataset_meta, pipeline, visualizer)


class Models(Sequence[Model]):
    """All models that are served, in order, by position or by name."""

    def __init__(self, models: Iterable[Model]):
        self._models = list(models)
        names = [model.name for model in self._models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two models have the name {sorted(twice)[0]}: give one only")

    def __getitem__(self, index):
        return self._models[index]

    def __len__(self) -> int:
        return len(self._models)

    def of(self, *tasks: str) -> list[Model]:
        """Return the models of these tasks: detect, segment, classify or sketch."""
        return [model for model in self._models if model.task in tasks]

    def named(self, name: str | None) -> Model:
        """Return the model of a name.

        Raises:
            ValueError: if there is none.
        """
        for model in self._models:
            if model.name == name:
                return model
        raise ValueError("Choose a model first." if not name else f"There is no model {name}.")
