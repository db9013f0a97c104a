"""Command line and config of a run: flags that commands share, and the settings that they change.

A config that a run cannot use is found here, before anything starts.
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config

from ..config_files import find_config, similar_bases
from ..mini.preset import apply_mini
from .cfg_options import add_cfg_options, apply_cfg_options
from .checks import require_data
from .distributed import join_processes
from .errors import where_in_config
from .own_data import apply_own_data
from .requirements import require_keys
from .work_dir import require_writable

# settings that every command, a training and a test need
EVERY_KEY = ("default_scope", "model")
TRAIN_KEYS = ("train_dataloader", "train_cfg", "optim_wrapper")
TEST_KEYS = ("test_dataloader", "test_cfg", "test_evaluator")


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the flags that every command with a config has."""
    parser.add_argument("--mini", action="store_true", help="run on the embedded mini set")
    add_cfg_options(parser)
    parser.add_argument(
        "--dangerously-run-code-in-checkpoints",
        dest="run_code",
        action="store_true",
        help="execute code contained in checkpoints; never use it for files that you do not trust",
    )


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add the flags that training and testing share, with OpenMMLab's names."""
    add_config_arguments(parser)
    parser.add_argument(
        "--work-dir",
        metavar="FOLDER",
        help="of logs and checkpoints (default: work_dirs/CONFIG, with --mini CONFIG_mini)",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what has started the processes of a distributed run (default: none)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the backbone for each image shape"
    )
    parser.add_argument(
        *("--local_rank", "--local-rank"),
        type=int,
        default=0,
        metavar="N",
        help="number of the process on its machine, as some launchers pass it",
    )


def read_config(args: Namespace) -> Config:
    """Read the config of the command line, and apply mini preset, overrides and own data.

    Raises:
        ValueError: if :func:`read_settings` cannot read it, or its own data cannot be used.
    """
    cfg = read_settings(args)
    apply_own_data(cfg)
    return cfg


def read_settings(args: Namespace) -> Config:
    """Read the config of the command line, and apply mini preset and overrides.

    It is given by its path, or by its name among the configs of the package. Its `own_data` stays.

    Raises:
        ValueError: if there is no such config, or it cannot be read, lacks a required key, or does
            not fit the options.
    """
    path = find_config(args.config)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program and can raise anything
        reason = where_in_config(error) + similar_bases(str(error))
        raise ValueError(f"cannot read the config {args.config}: {reason}") from error
    require_keys(cfg, *EVERY_KEY)
    if args.mini:
        apply_mini(cfg)
    if args.cfg_options:
        apply_cfg_options(cfg, args.cfg_options)
        require_keys(cfg, *EVERY_KEY)
    return cfg


def prepare_run(args: Namespace, needs: tuple[str, ...], loaders: tuple[str, ...]) -> Config:
    """Read and check the config of a run, and create its work dir.

    With a launcher, its processes have joined their group then.

    Args:
        args: parsed command line.
        needs: keys that the config must set.
        loaders: keys of dataloaders; the data of those that the config sets must exist.

    Raises:
        ValueError: if the config, its data or the work dir cannot be used.
    """
    # MPI names it otherwise, and mmengine reads both
    local_rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", str(args.local_rank))
    os.environ.setdefault("LOCAL_RANK", local_rank)
    cfg = read_config(args)
    cfg.launcher = args.launcher
    name = Path(args.config).stem + ("_mini" if args.mini else "")
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{name}"
    require_keys(cfg, *needs)
    for loader in loaders:
        if cfg.get(loader) is not None:
            require_data(cfg, cfg[loader].dataset)
    require_writable(Path(cfg.work_dir))
    if args.launcher != "none":
        join_processes(cfg)
    return cfg
