"""One run of a leaderboard in a process of its own: train, evaluate, measure, write the result.

A stopped run goes on from its last checkpoint when the command is given again.

Usage: python -m hybrid_backbones.benchmark.one_run FOLDER [--with-parent] [--write-page]
"""

import argparse
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from hashlib import sha256
from numbers import Real
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS

from ..checkpoints import guard_loads, read_checkpoint
from ..inference.demo import build_trained
from ..training import launch
from ..training.errors import one_line_errors, stop_on_sigterm
from ..training.mini_models import end_with_input, find_finished
from ..training.outputs import SHOW_DIR_KEYS
from ..training.saving import find_last_checkpoint
from ..training.stop import GRACE, SIGNALS
from .board_page import write_board
from .launchers import IN_USE, PROGRAM, queued_again_at_time_limit
from .probes import time_call
from .rows import attempt
from .runs import Run, reason_of
from .settings import device_name
from .training_figures import noting_memory, training_memory, training_seconds, training_speed
from .zoo import count_costs

# seconds until a stopped process of the same run has ended, and number of timed predictions
PATIENCE, REPEATS = 2 * GRACE, 5


def main(arguments: list[str] | None = None) -> None:
    """Complete the run of the command line, or take part in its training."""
    parser = argparse.ArgumentParser(description="Complete one run of a leaderboard.")
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when the standard input ends"
    )
    parser.add_argument("--write-page", action="store_true", help="write the leaderboard's page")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch"], default="none", help="pytorch: only train"
    )
    args = parser.parse_args(arguments)
    if args.with_parent:
        threading.Thread(target=end_with_input, daemon=True).start()
    run = Run.load(args.folder)
    with one_line_errors(), guard_loads(run_code=False):
        stop_on_sigterm(*SIGNALS)
        if args.launcher == "pytorch":
            with _noting_failure(run):
                launch.train(_training(run, "pytorch"))
            return
        try:
            _complete_alone(run)
        finally:
            # last, as it can take longer than Slurm leaves a stopped task
            if args.write_page:
                write_board(run.folder.parent)


def _complete_alone(run: Run) -> None:
    """Complete a run as soon as no other process does; exit with `IN_USE` if one does for long."""
    try:
        with (
            FileLock(run.folder / ".run.lock", timeout=PATIENCE),
            _noting_failure(run),
            queued_again_at_time_limit(run),
        ):
            complete(run)
    except Timeout:
        sys.stderr.write(f"error: {run.folder} is in use by another process: wait for it\n")
        sys.exit(IN_USE)


@contextmanager
def _noting_failure(run: Run) -> Iterator[None]:
    """Write the reason of a failure into the folder of the run."""
    try:
        yield
    except Exception as error:  # raised again: the row of the run says it
        run.fail(reason_of(error))
        raise


def complete(run: Run) -> None:
    """Train, evaluate and measure, as far as it is not done yet, and write the result."""
    if run.read_result() is not None:
        return
    run.forget_failure()
    _train(run)
    checkpoint = find_last_checkpoint(run.work_dir)
    if checkpoint is None:
        raise ValueError(
            f"the training left no checkpoint in {run.work_dir}: set default_hooks.checkpoint"
        )
    cfg = Config.fromfile(run.settings)
    metrics = launch.test(_evaluation(run, cfg, checkpoint))
    figures = dict(
        metrics={key: float(value) for key, value in metrics.items() if isinstance(value, Real)},
        checkpoint=str(checkpoint.relative_to(run.folder)),
        weights=hash_weights(checkpoint),
        train_images_per_s=training_speed(run, cfg),
        train_seconds=training_seconds(run),
        train_memory_mib=training_memory(run),
        processes=run.processes,
        device=device_name(_device()),
        threads=torch.get_num_threads(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    # what cannot be measured must not lose the metrics
    notes = []
    for measured in (attempt(_count, cfg, run.size), attempt(_time, cfg, checkpoint)):
        notes += [measured.pop("error")] if "error" in measured else []
        figures |= measured
    run.finish(figures | dict(notes=notes))


def _train(run: Run) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    finished = find_finished(run.work_dir, Config.fromfile(run.settings))
    if finished is not None:
        return
    if run.processes > 1:
        _train_distributed(run)
    else:
        with noting_memory(run):
            launch.train(_training(run, "none"))


def _train_distributed(run: Run) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={run.processes}", "-m", PROGRAM, str(run.folder)]
    command += ["--launcher", "pytorch", "--with-parent"]
    # the processes of torchrun read from it, too, and end when this one does, however it ends
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        code = process.wait()
    except BaseException:
        # another signal must not end the wait, which torchrun bounds
        for number in (signal.SIGINT, *SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        # torchrun passes it on to its processes, which save first; of SIGUSR1 it would die
        process.terminate()
        process.wait()
        raise
    if code:
        raise ValueError(run.error or f"torchrun ended with exit code {code}")


def _training(run: Run, launcher: str) -> Namespace:
    """Return the arguments of tools/train.py."""
    return Namespace(
        config=str(run.settings),
        work_dir=str(run.work_dir),
        cfg_options={"randomness.seed": run.seed},
        resume="auto" if find_last_checkpoint(run.work_dir) else None,
        launcher=launcher,
        # the settings are those of the mini set already
        **run.flags
        | dict(mini=False, compile=False, fresh_head=None, batch_size=None, local_rank=0),
    )


def _evaluation(run: Run, cfg: Config, checkpoint: Path) -> Namespace:
    """Return the arguments of tools/test.py, which draws no pictures here."""
    switch, _ = SHOW_DIR_KEYS[cfg.default_scope]
    draws = "visualization" in (cfg.get("default_hooks") or {})
    return Namespace(
        config=str(run.settings),
        checkpoint=str(checkpoint),
        work_dir=str(run.folder / "test"),
        cfg_options={f"default_hooks.visualization.{switch}": False} if draws else None,
        **dict(mini=False, compile=False, tta=False, show_dir=None, out=None),
        **dict(launcher="none", local_rank=0),
    )


def hash_weights(checkpoint: Path) -> str:
    """Return the SHA-256 of the weights: names, dtypes, shapes and values.

    Unlike that of the file, which has times in it, it is the same after an interruption.
    """
    digest = sha256()
    for name, value in read_checkpoint(checkpoint)["state_dict"].items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _count(cfg: Config, size: tuple[int, int]) -> dict:
    params, macs = count_costs(cfg, size)
    return dict(params=params, macs=macs)


def _time(cfg: Config, checkpoint: Path) -> dict:
    """Time the prediction of one image, from the model's input to its final predictions."""
    device = _device()
    model = build_trained(cfg, checkpoint, device)
    data = pseudo_collate([DATASETS.build(cfg.test_dataloader.dataset)[0]])
    with torch.no_grad():
        times = time_call(partial(model.test_step, data), device=device, repeats=REPEATS)
    return dict(latency_ms=times["median"])


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
