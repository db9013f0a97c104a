"""The processes of a training: their group, also without GPUs, and one model in all of them."""

import os
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast, init_dist, is_distributed
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from ..mini.settings import dicts
from .store import connect
from .watch import watch_processes

# seconds without progress after which a process counts as hung, unless the config says otherwise
TIMEOUT = 1800
# seconds that PyTorch waits longer, so that the line that names the process comes first
MARGIN = 60


def join_processes(cfg: Config) -> None:
    """Join the group of processes that a launcher has started, and watch it from then on.

    mmengine does so only with a GPU for each process. Without GPUs they communicate through gloo,
    and batch normalisation is not synchronised, which needs GPUs.

    Args:
        cfg: config with a launcher. `env_cfg.dist_cfg.timeout` is set to seconds where it is not.

    Raises:
        ValueError: without a GPU, for other launchers than PyTorch's.
    """
    env = cfg.setdefault("env_cfg", {})
    settings = env.setdefault("dist_cfg", {})
    patience = settings.setdefault("timeout", TIMEOUT)
    if not isinstance(patience, int | float) or patience <= 0:
        raise ValueError(
            f"env_cfg.dist_cfg.timeout must be a positive number of seconds, got {patience!r}"
        )
    if cfg.launcher == "pytorch" and "RANK" not in os.environ:
        raise ValueError(
            "--launcher pytorch is for processes that torchrun starts, such as `torchrun "
            "--nproc-per-node NUMBER -m hybrid_backbones.cli train CONFIG --launcher pytorch`: "
            "leave it out for a single process"
        )
    set_multi_processing(**env.get("mp_cfg", {}), distributed=True)
    longer = timedelta(seconds=patience + MARGIN)
    store = _store_of_restart(longer)
    if torch.cuda.is_available():
        init_dist(cfg.launcher, **dict(settings, timeout=patience + MARGIN), **store)
        watch_processes(patience)
        return
    if cfg.launcher != "pytorch":
        raise ValueError(f"without a GPU only --launcher pytorch works, got {cfg.launcher}")
    torch.distributed.init_process_group("gloo", timeout=longer, **store)
    watch_processes(patience)
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        # mmengine reads it only where there is no such wrapper
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    cfg.pop("sync_bn", None)
    for part in dicts(cfg.model):
        if part.get("type") == "SyncBN":
            part.type = "BN"
    print_log("no GPU: processes communicate through gloo, and each normalises its own batch")


def _store_of_restart(patience: timedelta) -> dict[str, Any]:
    """Return how processes find each other that torchrun has started again.

    PyTorch's default finds the addresses of those that have ended.
    """
    env = os.environ
    kept = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not kept or env["TORCHELASTIC_RESTART_COUNT"] == "0":
        return {}
    return dict(store=connect(patience), rank=int(env["RANK"]), world_size=int(env["WORLD_SIZE"]))


def register_for_processes(runner: Runner) -> None:
    """Register the hooks of a run of several processes."""
    if is_distributed():
        runner.register_hook(SameBuffersHook())
        runner.register_hook(watch_processes(runner.cfg.env_cfg.dist_cfg.timeout))


class SameBuffersHook(Hook):
    """Hook that evaluates the model that checkpoints have: with the buffers of the first process.

    Without synchronised batch normalisation each process has statistics of its own.
    """

    # after averages have taken the place of the weights
    priority = "LOWEST"

    def before_val_epoch(self, runner) -> None:
        """Copy the buffers of the first process to the others."""
        for buffer in runner.model.buffers():
            broadcast(buffer)
