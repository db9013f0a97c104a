"""Training and testing from the command line.

Errors that the user can fix are found before the training starts, and reported in one line.
"""

from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..checkpoints import load_trained, read_checkpoint, require_resumable, unwrap
from .batch_size import AUTO, set_batch_size
from .checks import IterationsHook, require_batches, require_channels, require_length
from .compilation import compile_backbone, require_compiler
from .distributed import register_for_processes
from .early_stopping import KeepCountsHook, has_stopped, read_validations
from .initial_weights import choose_weights
from .mixed_precision import DEFAULTS, DTYPES, train_in_mixed_precision
from .outputs import RunnerBesideConfig, require_different_names, show_in
from .progress import ProgressHook
from .requirements import require_writable_file
from .restarts import BeginHook, find_own_checkpoint, resume_after_restart
from .resume import (
    adopt_settings,
    checkpoint_to_resume,
    progress,
    require_averaging,
    trained_batch_size,
)
from .run_config import TEST_KEYS, TRAIN_KEYS, prepare_run
from .saving import (
    LoadFromHook,
    advice_for_a_full_disk,
    remove_drafts,
    require_elsewhere,
)
from .stop import StopHook, StopRequest, stoppable
from .test_time import augment_tests, remove_masks
from .work_dir import is_first_process, locked


class Resumed(NamedTuple):
    """Checkpoint from which a training goes on, and how many epochs or iterations it had done.

    `validations` is what its early stopping had counted.
    """

    path: Path
    checkpoint: Mapping
    done: int
    validations: dict[str, dict]


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
        last = find_own_checkpoint(args.resume, cfg.work_dir)
        kept = f"continue from {last} with --resume" if last else "there is no checkpoint yet"
        stop.args = (kept,)
        raise


def _train(args: Namespace, cfg: Config, request: StopRequest) -> None:
    """Train in a work dir that the caller has locked."""
    is_restart = resume_after_restart(args, cfg.work_dir)
    _apply_flags(args, cfg)
    # a resumed training has its weights already
    pretrained = args.pretrained and not args.resume
    weights = choose_weights(cfg, args.cfg_options or {}, pretrained=pretrained)
    differences = []
    resumed = _read_resumed(args, cfg) if args.resume else None
    if args.resume and resumed is None:
        return
    if resumed and is_restart and args.batch_size == AUTO:
        args.batch_size = trained_batch_size(resumed.checkpoint)
    if args.batch_size:
        differences.append(set_batch_size(cfg, args.batch_size, resumes=bool(args.resume)))
    if resumed:
        differences += adopt_settings(cfg, resumed.checkpoint)
        cfg.resume, cfg.load_from = True, str(resumed.path)
    elif cfg.get("load_from"):
        require_elsewhere(cfg.load_from, cfg.work_dir)
    elif weights:
        differences.append(weights)
    if is_first_process(args.launcher):
        remove_drafts(cfg.work_dir)
    runner = _make_runner(args, cfg, request, resumed)
    # a checkpoint is as large as the model and its optimizer
    del resumed
    for line in differences:
        print_log(line, logger="current")
    try:
        with advice_for_a_full_disk(cfg.work_dir):
            runner.train()
    finally:
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.close()


def _apply_flags(args: Namespace, cfg: Config) -> None:
    """Apply the flags of a training to its config, and refuse those that contradict it."""
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
    if args.fresh_head is not None and not (cfg.get("load_from") and not args.resume):
        raise ValueError(
            "--fresh-head is for a training from load_from: add --cfg-options load_from=FILE"
        )
    if cfg.get("resume") and not args.resume:
        raise ValueError("the config sets resume=True: leave it out, and give --resume instead")
    cfg.resume = False


def _read_resumed(args: Namespace, cfg: Config) -> Resumed | None:
    """Read the checkpoint of `--resume`, or say that its training has finished."""
    path = checkpoint_to_resume(args.resume, cfg.work_dir)
    checkpoint = read_checkpoint(path)
    unit, done, whole = progress(cfg, checkpoint)
    if done >= whole:
        print_log(
            f"already finished: {path} was saved at {unit} {done} of {whole}. Evaluate it "
            f"with hb test, or raise train_cfg.max_{unit}s to train longer"
        )
        return None
    iteration = checkpoint["meta"]["iter"]
    validations = read_validations(path, iteration)
    if has_stopped(cfg, validations, iteration):
        print_log(
            f"already finished: {path} was saved at {unit} {done}, where the training stopped "
            "early. Evaluate it with hb test, or leave EarlyStoppingHook out to train longer"
        )
        return None
    return Resumed(path, checkpoint, done, validations)


def _make_runner(
    args: Namespace, cfg: Config, request: StopRequest, resumed: Resumed | None
) -> Runner:
    """Build the runner of a training with its hooks, and check what it is given to train."""
    # the config that was given may be in the work dir
    is_kept = Path(cfg.work_dir).resolve() == Path(cfg.filename).resolve().parent
    runner = (RunnerBesideConfig if is_kept else Runner).from_cfg(cfg)
    require_channels(cfg.model, getattr(unwrap(runner.model), "backbone", None))
    if resumed:
        require_resumable(runner.model, resumed.checkpoint)
        require_averaging(runner.hooks, resumed.checkpoint)
    elif cfg.get("load_from"):
        runner.register_hook(LoadFromHook(cfg.load_from, args.fresh_head))
    require_batches(runner.train_loop.dataloader)
    runner.register_hook(IterationsHook())
    meta = resumed.checkpoint["meta"] if resumed else None
    runner.register_hook(StopHook(request, meta, cfg.optim_wrapper.get("accumulative_counts", 1)))
    runner.register_hook(KeepCountsHook(resumed.validations if resumed else {}))
    register_for_processes(runner)
    if args.compile:
        compile_backbone(runner.model)
    path, done = (resumed.path, resumed.done) if resumed else (None, 0)
    runner.register_hook(BeginHook(Path(cfg.work_dir), path, done))
    return runner


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
