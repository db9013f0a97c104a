"""Leaderboard: train and evaluate many configs, and write one page of their results.

What is finished is not computed again, what was interrupted goes on from its last checkpoint, and
what fails has its reason on the page. A config with other settings is another run.
"""

import json
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..checkpoints.fetch import hash_file
from ..config_files import find_config
from ..mini.preset import MINI_ROOT, SEGMENTATION_CROP, dicts
from ..mini.shapes import SCENE_SIZES, SINGLE_SIZE
from ..training.errors import explain, stop_on_sigterm
from ..training.requirements import require_keys, require_writable_file
from ..training.run_config import TEST_KEYS, TRAIN_KEYS, read_config
from ..training.work_dir import locked
from .board_entries import Entry
from .board_page import PAGE, save_board, write_board
from .launchers import queued_job, require_none_queued, run_here, submit, write_script
from .real_runs import count_gpus, count_images, with_default_roots
from .runs import Run, reason_of
from .tables import write_whole
from .zoo import published_of, published_size

# size of the images that most training steps on the mini set see
MINI_SIZES = dict(mmdet=SCENE_SIZES[0], mmseg=SEGMENTATION_CROP, mmpretrain=SINGLE_SIZE)
# digits of a digest in the name of a folder
NUM_DIGITS = 8
# of each run, unless --gpus says another number
SLURM_GPUS = 8


@dataclass(frozen=True)
class Plan:
    """What a leaderboard computes, and where.

    Args:
        configs: files of configs.
        out: folder of the page and of all runs.
        mini: whether to run on the mini set.
        seeds: number of seeds, from 0.
        options: overrides of all configs, as of `--cfg-options`.
        flags: `amp`, `pretrained` and `auto_scale_lr` of tools/train.py.
        launcher: one of `LAUNCHERS`.
        jobs: number of runs at a time.
        gpus: number of processes of each run, each with a GPU if there are any; by default one,
            with 'torchrun' the share of all GPUs, and with 'slurm' 8, as tools/slurm_train.sh.
        sbatch: options of sbatch, such as ``partition=gpu``.
        speeds: tables of `tools/benchmark.py train`, for the cost of real runs.
    """

    configs: Sequence[str]
    out: Path
    mini: bool = False
    seeds: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    launcher: str = "local"
    jobs: int = 1
    gpus: int | None = None
    sbatch: Sequence[str] = ()
    speeds: Sequence[Path] = ()

    def __post_init__(self):
        for name in ("seeds", "jobs", "gpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.launcher == "local" and self.processes > 1:
            raise ValueError(f"--gpus {self.gpus} needs --launcher torchrun or slurm")
        if self.sbatch and self.launcher != "slurm":
            raise ValueError("--sbatch needs --launcher slurm")
        if self.mini and self.flags.get("pretrained"):
            raise ValueError("--pretrained downloads weights, --mini never does: leave one out")
        if "randomness.seed" in self.options:
            raise ValueError(
                "randomness.seed of --cfg-options has no effect, as each run has its own: leave "
                "it out, and say how many seeds by --seeds"
            )

    @property
    def processes(self) -> int:
        """Number of processes of each run."""
        if self.gpus is None and self.launcher == "torchrun":
            return max(1, torch.cuda.device_count() // self.jobs)
        return self.gpus or (SLURM_GPUS if self.launcher == "slurm" else 1)

    def files(self) -> list[Path]:
        """Return the files of all configs.

        Raises:
            ValueError: if there is no such config.
        """
        return [find_config(config).absolute() for config in self.configs]

    def runs(self) -> list[Run]:
        """Read all configs, and return a run for each config and seed.

        A config that cannot be run does not stop the others: its run has failed already.

        Raises:
            ValueError: if there is no such config.
        """
        runs = [run for path in self.files() for run in self._runs_of(path)]
        # a config may be given by its name and by its path
        return list({run.folder: run for run in runs}.values())

    def _runs_of(self, path: Path) -> list[Run]:
        try:
            return self._prepared(path)
        except Exception as error:  # a config is a program and can raise anything; its row says it
            return [self._failed(path, error)]

    def _prepared(self, path: Path) -> list[Run]:
        """Return the runs of a config, in whose folders its settings are.

        Raises:
            ValueError: if the config lacks what a run needs.
        """
        cfg = read_config(Namespace(config=path, mini=self.mini, cfg_options=self.options))
        require_keys(cfg, *TRAIN_KEYS, *TEST_KEYS)
        scope = cfg.default_scope
        if scope not in MINI_SIZES:
            raise ValueError(f"default_scope must be one of {sorted(MINI_SIZES)}, got {scope!r}")
        real = Config.fromfile(path) if self.mini else cfg
        published = published_of(path)
        size = MINI_SIZES[scope] if self.mini else published_size(published, scope)
        flags = self._flags(cfg)
        settings = [cfg.to_dict(), {name: value for name, value in flags.items() if value}]
        if self.processes > 1:
            # each has a batch of its own
            settings.append({"processes": self.processes})
        # the data are the same wherever they are
        text = with_default_roots(json.dumps(settings, sort_keys=True, default=str), cfg)
        if self.mini:
            text = text.replace(str(Path(MINI_ROOT).resolve()), MINI_ROOT)
        digest = sha256(text.encode()).hexdigest()
        known: dict[str, Any] = dict(scope=scope, size=size, flags=flags, published=published)
        known |= dict(images=count_images(real), gpus=count_gpus(real))
        runs = [self._run_of(path, seed, digest, **known) for seed in range(self.seeds)]
        for run in runs:
            run.folder.mkdir(parents=True, exist_ok=True)
            # a task of Slurm may read it at this moment
            write_whole(run.settings, cfg.dump())
        return runs

    def _failed(self, path: Path, error: Exception) -> Run:
        """Return the run of a config that cannot be run; it says why, of a bug with a traceback."""
        unknown: dict[str, Any] = dict(scope=None, size=(0, 0), images=None)
        unknown["flags"] = dict(pretrained=False)
        run = self._run_of(path, 0, hash_file(path), **unknown)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.forget_failure()
        reason = reason_of(error)
        if explain(error) is None:
            write_whole(run.log, "".join(traceback.format_exception(error)))
            reason += f"; its traceback is in {run.log}"
        run.fail(reason)
        return run

    def _flags(self, cfg: Config) -> dict[str, Any]:
        """Return the flags of tools/train.py for a config, which may name no published weights."""
        flags = dict(amp=None, pretrained=False, auto_scale_lr=False) | dict(self.flags)
        given = [settings.get("init_cfg") for settings in dicts(cfg.model)]
        named = any(isinstance(one, dict) and one.get("type") == "Published" for one in given)
        return flags | dict(pretrained=flags["pretrained"] and named)

    def _run_of(self, config: Path, seed: int, digest: str, **others: Any) -> Run:
        name = f"{config.stem}{'_mini' * self.mini}_seed{seed}_{digest[:NUM_DIGITS]}"
        return Run(
            folder=self.out / name,
            config=config,
            mini=self.mini,
            seed=seed,
            digest=digest,
            processes=self.processes,
            **others,
        )


def lead(plan: Plan, program: str, arguments: str, say: Callable[[str], None]) -> int:
    """Compute all runs of a plan that are not finished, and write the page after each.

    Args:
        plan: what is computed.
        program: words by which this program is started, for the commands on the page.
        arguments: rest of the command line.
        say: function that receives lines about what was done.

    Returns:
        number of runs that failed.

    Raises:
        ValueError: if the plan cannot be carried out.
    """
    # before there is a folder
    plan.files()
    require_writable_file(plan.out / PAGE)
    stop_on_sigterm()
    submitted: list[Run] = []
    with _saying_how_to_go_on(), locked(plan.out, "leaderboard", "--out"):
        if plan.launcher == "slurm":
            require_none_queued(plan.out)
        runs = plan.runs()
        for run in runs:
            run.save()
        command = dict(program=program, arguments=arguments)
        queued = queued_job(plan.out) is not None
        save_board(plan.out, runs, **command, speeds=plan.speeds, queued=queued)
        missing = [run for run in runs if run.result is None and run.scope is not None]
        say(f"{len(runs)} runs, {len(missing)} of them to do; their folders are in {plan.out}")
        for run in runs:
            if run.scope is None:
                say(f"{run.title}: {Entry([run]).in_words()}")
        write_board(plan.out)
        if missing and plan.launcher == "slurm":
            say(submit(write_script(missing, plan.out, plan.jobs, plan.sbatch)))
            # what is said of them is of an earlier attempt
            submitted = missing
        elif missing:
            # closed at once, so that no run outlives this one
            with closing(run_here(missing, plan.jobs)) as ended:
                for number, run in enumerate(ended, 1):
                    write_board(plan.out)
                    words = Entry([run]).in_words()
                    if run.result is None and run.error is None:
                        words += ", and another process computes it; see its log"
                    say(f"{number} of {len(missing)}: {run.title}: {words}")
    say(f"wrote {plan.out / PAGE}")
    return sum(run.error is not None for run in runs if run not in submitted)


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = ("the same command goes on from the last checkpoints",)
        raise
