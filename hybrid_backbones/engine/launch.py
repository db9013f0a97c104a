"""From the command line to a run: config, checks, runner.

Everything that a user can get wrong is looked at here before the training starts, and reported in
one line.
"""

import errno
import os
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner

from ..checkpoints import load_trained, require_same_entries
from .amp import DEFAULTS, DTYPES, train_in_mixed_precision
from .compilation import compile_backbone, require_compiler
from .mini import apply_mini, dicts
from .whole_checkpoints import find_last_checkpoint

# the variable that says where the data of each framework's configs lies
ROOT_VARIABLES = dict(mmdet="COCO_ROOT", mmseg="ADE_ROOT", mmpretrain="IMAGENET_ROOT")
# how each framework's picture hook is told where to put the pictures of a test
SHOW_DIR_KEYS = dict(
    mmdet=("draw", "test_out_dir"), mmseg=("draw", None), mmpretrain=("enable", "out_dir")
)


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the flags that change a config."""
    parser.add_argument("--mini", action="store_true", help="run on the embedded mini set")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="settings of the config to override, as key=value",
    )


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add the flags that training and testing share, with OpenMMLab's names."""
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="where logs and checkpoints go")
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="job launcher",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the backbone, for each shape of images"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def read_config(args: Namespace) -> Config:
    """Read the config of the command line, with the mini preset and its overrides.

    Raises:
        ValueError: where there is no such config.
    """
    if not Path(args.config).is_file():
        raise ValueError(
            f"no config at {args.config}: check the path, see configs/ for those we have"
        )
    cfg = Config.fromfile(args.config)
    if args.mini:
        apply_mini(cfg)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def prepare_run(args: Namespace, *loaders: str) -> Config:
    """Read the config of the command line, and check what it needs to run these data loaders.

    Raises:
        ValueError: where the config, its data or the work dir cannot be used.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args)
    cfg.launcher = args.launcher
    name = Path(args.config).stem + ("_mini" if args.mini else "")
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{name}"
    for loader in loaders:
        _require_data(cfg, cfg[loader].dataset)
    _require_writable(Path(cfg.work_dir))
    if args.launcher != "none" and not torch.cuda.is_available():
        _distribute_on_cpu(cfg)
    return cfg


def train(args: Namespace) -> None:
    """Train as the command line says.

    Raises:
        ValueError: for what a user can mend.
    """
    cfg = prepare_run(args, "train_dataloader", "val_dataloader")
    if args.compile:
        require_compiler(_device())
    if args.amp:
        dtype = DEFAULTS[_device()] if args.amp == "auto" else DTYPES[args.amp]
        cfg.optim_wrapper = train_in_mixed_precision(cfg.optim_wrapper, _device(), dtype)
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume, cfg.load_from = True, str(_checkpoint_to_resume(args.resume, cfg.work_dir))
    else:
        cfg.resume = False
        _put_aside(Path(cfg.work_dir))
    runner = Runner.from_cfg(cfg)
    if args.resume:
        require_same_entries(runner.model, cfg.load_from)
    if args.compile:
        compile_backbone(runner.model)
    runner.train()


def test(args: Namespace) -> dict:
    """Evaluate a checkpoint as the command line says, and return the metrics.

    Raises:
        ValueError: for what a user can mend.
    """
    cfg = prepare_run(args, "test_dataloader")
    if args.compile:
        require_compiler(_device())
    cfg.resume, cfg.load_from = False, None
    # a checkpoint's `state_dict` is the average already; the plain weights are its `ema_state_dict`
    cfg.get("default_hooks", {}).pop("ema", None)
    if args.show_dir:
        _show_in(cfg, str(Path(args.show_dir).absolute()))
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out must end with .pkl or .pickle, got {args.out}")
    if args.out:
        # mmdet's own compresses masks
        dump = "DumpDetResults" if cfg.default_scope == "mmdet" else "DumpResults"
        cfg.test_evaluator = [cfg.test_evaluator, dict(type=dump, out_file_path=args.out)]
    runner = Runner.from_cfg(cfg)
    load_trained(runner.model, args.checkpoint)
    if args.compile:
        compile_backbone(runner.model.eval())
    return runner.test()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for what a user can mend; the log file gets the traceback."""
    try:
        yield
    except (ValueError, OSError, KeyError, NotImplementedError, SyntaxError) as error:
        _log_traceback()
        sys.exit(f"error: {_last_line(error)}")


def _log_traceback() -> None:
    for handler in MMLogger.get_current_instance().handlers:
        if hasattr(handler, "baseFilename"):
            handler.stream.write(traceback.format_exc())


def _last_line(error: Exception) -> str:
    # an error in a loading worker arrives with the worker's traceback as its text
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    line = (
        lines[-1].removeprefix(f"{type(error).__name__}: ")
        if "Traceback" in str(error)
        else " ".join(lines)
    )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        line += ". The checkpoints that are there are whole: free some space and use --resume"
    return line


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _checkpoint_to_resume(resume: str, work_dir: str) -> Path:
    path = find_last_checkpoint(work_dir) if resume == "auto" else Path(resume)
    if path is None:
        raise ValueError(
            f"--resume: there is no checkpoint in {work_dir}; leave --resume out to start anew, or "
            "name a checkpoint behind it"
        )
    if not path.is_file():
        raise ValueError(f"--resume: no checkpoint at {path}; check the path")
    return path


def _put_aside(work_dir: Path) -> None:
    """Move the checkpoints of an earlier training away, where a new one would overwrite them."""
    earlier = list(work_dir.glob("*.pth"))
    # one process moves for all
    if earlier and os.environ.get("RANK", "0") == "0":
        aside = work_dir / time.strftime("before_%Y%m%d_%H%M%S")
        aside.mkdir()
        for path in earlier:
            path.rename(aside / path.name)
        print_log(f"{len(earlier)} checkpoints of an earlier training moved to {aside}")


def _require_data(cfg: Config, dataset: dict) -> None:
    """Look for the files and folders that a data set of the config names."""
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


def _require_writable(work_dir: Path) -> None:
    probe = work_dir / f".probe-{os.getpid()}"
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write to the work dir {work_dir} ({error}): choose another with --work-dir"
        ) from error


def _distribute_on_cpu(cfg: Config) -> None:
    """Start gloo processes here, since mmengine would ask for a GPU of each."""
    if cfg.launcher != "pytorch":
        raise ValueError(f"without a GPU only --launcher pytorch works, got {cfg.launcher}")
    torch.distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )
    # synchronised normalisation exists for GPUs only
    cfg.pop("sync_bn", None)
    for settings in dicts(cfg.model):
        if settings.get("type") == "SyncBN":
            settings.type = "BN"
    print_log("no GPU: processes talk through gloo, and normalise each for itself")


def _show_in(cfg: Config, folder: str) -> None:
    hook = cfg.default_hooks.visualization
    switch, key = SHOW_DIR_KEYS[cfg.default_scope]
    hook[switch], hook.interval = True, 1
    if key:
        hook[key] = folder
    else:
        cfg.visualizer.save_dir = folder
