"""Runs of a leaderboard: a config trained with a seed, and the files that say how far it is.

All that is known of a run lies in its folder, so that processes on several machines share it:
``run.json`` (what it is), the config with all overrides, ``train/`` (its work dir), ``test/``, and
at its end ``result.json`` or ``error.txt``.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..training.errors import explain
from .tables import write_whole

FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """A config trained with a seed.

    Args:
        folder: folder of the run, whose name has the first digits of `digest`.
        config: file of the config.
        scope: `default_scope` of the config; None if the config cannot be run.
        mini: whether it runs on the mini set.
        seed: seed of the training.
        digest: SHA-256 of the settings and the number of processes, without the seed.
        size: height and width of the images for which FLOPs are counted.
        flags: flags of tools/train.py: `amp`, `pretrained` and `auto_scale_lr`.
        images: number of images that a training on the real data sees; None if unknown.
        gpus: number of GPUs with which it sees them; None if it does with any number.
        processes: number of processes that train.
        published: published result in the docstring of the config, empty if there is none.
    """

    folder: Path
    config: Path
    scope: str | None
    mini: bool
    seed: int
    digest: str
    size: tuple[int, int]
    flags: dict[str, Any]
    images: int | None
    gpus: int | None = None
    processes: int = 1
    published: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read a run from its folder."""
        saved = json.loads((folder / FILE).read_text())
        paths = dict(folder=folder, config=Path(saved["config"]), size=tuple(saved["size"]))
        return cls(**saved | paths)

    def save(self) -> None:
        """Write what the run is into its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = asdict(self) | dict(config=str(self.config))
        del saved["folder"]
        write_whole(self.folder / FILE, json.dumps(saved, indent=2) + "\n")

    @property
    def name(self) -> str:
        """Name of the config."""
        return self.config.stem

    @property
    def title(self) -> str:
        """Name of the config and seed."""
        return f"{self.name}, seed {self.seed}"

    @property
    def settings(self) -> Path:
        """The config with the mini preset and all overrides."""
        return self.folder / self.config.name

    @property
    def work_dir(self) -> Path:
        """Work dir of the training."""
        return self.folder / "train"

    @property
    def log(self) -> Path:
        """All that the processes of the run on this machine have written."""
        return self.folder / "log.txt"

    def read_result(self) -> dict | None:
        """Return metrics and measured figures; None if the run has not finished.

        Raises:
            ValueError: if their file is damaged.
        """
        path = self.folder / "result.json"
        try:
            return json.loads(path.read_text()) if path.is_file() else None
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): remove it, and the run is evaluated again"
            ) from error

    @property
    def result(self) -> dict | None:
        """Metrics and measured figures; None if there are none that can be read."""
        with suppress(ValueError):
            return self.read_result()
        return None

    @property
    def error(self) -> str | None:
        """Line that says why the run failed, or that its result is damaged; None if neither."""
        try:
            finished = self.read_result() is not None
        except ValueError as damage:
            return str(damage)
        path = self.folder / "error.txt"
        return path.read_text() if path.is_file() and not finished else None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, which ends the run."""
        write_whole(self.folder / "result.json", json.dumps(result, indent=2) + "\n")

    def fail(self, line: str) -> None:
        """Write why the run failed; of several reasons, the first counts."""
        with suppress(FileExistsError), (self.folder / "error.txt").open("x") as file:
            file.write(" ".join(line.split()))

    def forget_failure(self) -> None:
        """Remove the reason of a failure before another attempt."""
        (self.folder / "error.txt").unlink(missing_ok=True)


def find_earlier(out: Path, runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs in the folder of a leaderboard that are not among the given ones.

    Raises:
        ValueError: if the file that says what a run is has been left out, as in docs/leaderboard.
    """
    names = {run.folder.name for run in runs}
    folders = sorted(path.parent for path in out.glob("*/result.json"))
    others = [folder for folder in folders if folder.name not in names]
    if unknown := [folder.name for folder in others if not (folder / FILE).is_file()]:
        raise ValueError(
            f"{out} has results of {', '.join(unknown)}, but no {FILE} that says what they are, "
            "and they would leave its page: name their configs, too, or choose another --out"
        )
    return [Run.load(folder) for folder in others]


def reason_of(error: Exception) -> str:
    """Return the line that says why a run failed; that of a bug begins with 'unexpected'."""
    line = str(error).partition("\n")[0]
    return explain(error) or f"unexpected {type(error).__name__}: {line}"
