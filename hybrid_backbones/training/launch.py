"""Training and testing from the command line: read the config, check it, run it.

Errors that the user can fix are found before the training starts, and reported in one line.
"""

import os
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..checkpoints import load_trained, read_checkpoint, require_resumable, unwrap
from ..config_files import find_config, similar_bases
from ..mini.preset import apply_mini
from .batch_size import set_batch_size
from .cfg_options import CfgOptions, apply_cfg_options
from .checks import (
    IterationsHook,
    require_batches,
    require_channels,
    require_data,
    require_length,
)
from .compilation import compile_backbone, require_compiler
from .distributed import join_processes, register_for_processes
from .errors import one_line_errors, where_in_config
from .initial_weights import choose_weights
from .mixed_precision import DEFAULTS, DTYPES, train_in_mixed_precision
from .outputs import RunnerBesideConfig, require_different_names, show_in
from .own_data import apply_own_data
from .progress import ProgressHook
from .requirements import require_keys, require_writable_file
from .restarts import BeginHook, resume_after_restart
from .resume import adopt_settings, checkpoint_to_resume, progress, require_averaging
from .saving import (
    LoadFromHook,
    advice_for_a_full_disk,
    find_last_checkpoint,
    remove_drafts,
    require_elsewhere,
)
from .stop import StopHook, StopRequest, stoppable
from .test_time import augment_tests, remove_masks
from .work_dir import is_first_process, locked, require_writable

__all__ = ["one_line_errors"]

# settings that every command, a training and a test need
EVERY_KEY = ("default_scope", "model")
TRAIN_KEYS = ("train_dataloader", "train_cfg", "optim_wrapper")
TEST_KEYS = ("test_dataloader", "test_cfg", "test_evaluator")


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the flags that every command with a config has."""
    parser.add_argument("--mini", action="store_true", help="run on the embedded mini set")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help="config settings to override",
    )
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


def train(args: Namespace) -> None:
    """Train the model of the config given on the command line.

    Raises:
        ValueError: for errors that the user can fix.
        KeyboardInterrupt: if the user or a signal stops it; the message names the last checkpoint.
    """
    cfg = prepare_run(args, TRAIN_KEYS, ("train_dataloader", "val_dataloader"))
    first = is_first_process(args.launcher)
    try:
        with stoppable() as request, locked(Path(cfg.work_dir)) if first else nullcontext():
            _train(args, cfg, request)
    except KeyboardInterrupt as stop:
        last = find_last_checkpoint(cfg.work_dir)
        kept = f"continue from {last} with --resume" if last else "there is no checkpoint yet"
        stop.args = (kept,)
        raise


def _train(args: Namespace, cfg: Config, request: StopRequest) -> None:
    """Train in a work dir that the caller has locked."""
    resume_after_restart(args, cfg.work_dir)
    require_length(cfg.train_cfg)
    if args.compile:
        require_compiler(_device())
    if args.amp:
        dtype = DEFAULTS[_device()] if args.amp == "auto" else DTYPES[args.amp]
        cfg.optim_wrapper = train_in_mixed_precision(cfg.optim_wrapper, _device(), dtype)
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.mini and args.pretrained:
        raise ValueError("--pretrained downloads weights, --mini never does: leave one of them out")
    differences, checkpoint, path, done, meta = [], None, None, 0, None
    # a resumed training has its weights already
    pretrained = args.pretrained and not args.resume
    weights = choose_weights(cfg, args.cfg_options or {}, pretrained=pretrained)
    if args.batch_size:
        differences.append(set_batch_size(cfg, args.batch_size, resumes=bool(args.resume)))
    if args.resume:
        path = checkpoint_to_resume(args.resume, cfg.work_dir)
        checkpoint = read_checkpoint(path)
        unit, done, whole = progress(cfg, checkpoint)
        if done >= whole:
            print_log(
                f"already finished: {path} was saved at {unit} {done} of {whole}. Evaluate it "
                f"with hb test, or raise train_cfg.max_{unit}s to train longer"
            )
            return
        differences += adopt_settings(cfg, checkpoint)
        meta = checkpoint["meta"]
        cfg.resume, cfg.load_from = True, str(path)
    elif cfg.get("resume"):
        raise ValueError("the config sets resume=True: leave it out, and give --resume instead")
    else:
        cfg.resume = False
        if cfg.get("load_from"):
            require_elsewhere(cfg.load_from, cfg.work_dir)
        elif weights:
            differences.append(weights)
    if args.fresh_head is not None and not (cfg.get("load_from") and not args.resume):
        raise ValueError(
            "--fresh-head is for a training from load_from: add --cfg-options load_from=FILE"
        )
    if is_first_process(args.launcher):
        remove_drafts(cfg.work_dir)
    # the config that was given may be in the work dir
    is_kept = Path(cfg.work_dir).resolve() == Path(cfg.filename).resolve().parent
    runner = (RunnerBesideConfig if is_kept else Runner).from_cfg(cfg)
    require_channels(cfg.model, getattr(unwrap(runner.model), "backbone", None))
    if checkpoint is not None:
        require_resumable(runner.model, checkpoint)
        require_averaging(runner.hooks, checkpoint)
        del checkpoint
    elif cfg.get("load_from"):
        runner.register_hook(LoadFromHook(cfg.load_from, args.fresh_head))
    for line in differences:
        print_log(line, logger="current")
    require_batches(runner.train_loop.dataloader)
    runner.register_hook(IterationsHook())
    runner.register_hook(StopHook(request, meta, cfg.optim_wrapper.get("accumulative_counts", 1)))
    register_for_processes(runner)
    if args.compile:
        compile_backbone(runner.model)
    runner.register_hook(BeginHook(Path(cfg.work_dir), path, done))
    try:
        with advice_for_a_full_disk(cfg.work_dir):
            runner.train()
    finally:
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.close()


def test(args: Namespace) -> dict:
    """Evaluate the checkpoint given on the command line, and return the metrics.

    Raises:
        ValueError: for errors that the user can fix.
    """
    cfg = prepare_run(args, TEST_KEYS, ("test_dataloader",))
    if args.compile:
        require_compiler(_device())
    cfg.resume, cfg.load_from = False, None
    if args.tta and args.show_dir:
        raise ValueError("--show-dir draws one view of an image, --tta makes many: use one of them")
    if args.tta:
        augment_tests(cfg)
    # `state_dict` already has the averaged weights; the others are in `ema_state_dict`
    (cfg.get("default_hooks") or {}).pop("ema", None)
    if args.show_dir:
        show_in(cfg, Path(args.show_dir).absolute())
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out must end with .pkl or .pickle, got {args.out}")
    if args.out:
        require_writable_file(Path(args.out))
        # mmdet's own dump compresses masks
        dump = "DumpDetResults" if cfg.default_scope == "mmdet" else "DumpResults"
        given = cfg.test_evaluator
        given = given if isinstance(given, list) else [given]
        cfg.test_evaluator = [*given, dict(type=dump, out_file_path=args.out)]
    runner = RunnerBesideConfig.from_cfg(cfg)
    if args.show_dir:
        require_different_names(cfg.default_scope, runner.test_loop.dataloader.dataset)
    load_trained(runner.model, args.checkpoint)
    if args.tta:
        remove_masks(runner.model)
    if args.compile:
        compile_backbone(runner.model.eval())
    register_for_processes(runner)
    return runner.test()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
