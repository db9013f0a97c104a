"""Several processes: restarts, signals of schedulers, hangs, nodes, evaluation, sharded state."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from tiers import few_of
from tool_runs import (
    ENVIRONMENT,
    REPOSITORY,
    evaluate,
    free_port,
    metric_on_file,
    metrics,
    ranks,
    run_warm,
    start_warm,
    train,
)

from hybrid_backbones.checkpoints import read_checkpoint
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.training.stop import IMAGES

DIVIDED = ["type=ShardedOptimizer", "optimizer_type=AdamW"]
PAGE = "docs/clusters.md"
CONFIG = "configs/imagenet_swiftformer_xs.py"
# eight steps of two processes in each of two epochs; images of validation that do not divide
OPTIONS = ["train_cfg.max_epochs=2", "train_cfg.val_interval=2", "train_dataloader.batch_size=4"]
OPTIONS += ["train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=59"]
pytestmark = pytest.mark.slow


def training(work_dir, *options, flags=()):
    return train(work_dir, *flags, config=CONFIG, options=[*OPTIONS, *options])


def run_together(commands):
    """Run processes to their end, and return what each wrote to its two outputs."""
    _, wait = start_warm(*commands)
    results = wait()
    assert [code for code, _, _ in results] == [0] * len(results), results
    return results


def wait_for(path, is_alive=lambda: True):
    end = time.monotonic() + 300
    while not path.is_file():
        assert is_alive(), f"ended before {path}"
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def children(pid):
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def require_same(one, other):
    """Compare predictions, which are nested in lists and dicts."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            require_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            require_same(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def require_equal(work_dir, reference):
    one, other = (read_checkpoint(folder / "epoch_2.pth") for folder in (reference, work_dir))
    assert one["meta"]["iter"] == other["meta"]["iter"] == 16
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    states = [c["optimizer"]["state"] for c in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])
    assert metrics(work_dir)[-1] == metrics(reference)[-1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A work dir of a training of two processes that nothing interrupts."""
    work_dir = tmp_path_factory.mktemp("reference")
    run_together(ranks(training(work_dir)))
    return work_dir


def torchrun(*flags):
    """Start torchrun with a training."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, flags)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_torchrun_restarts_a_killed_process_and_ends_bit_for_bit_the_same(reference, tmp_path):
    # checkpoints of an earlier training are not what a restart continues from
    (tmp_path / "epoch_9.pth").touch()
    launcher = torchrun(
        *("--nproc-per-node", 2, "--max-restarts", 1, "--master-port", free_port()),
        *training(tmp_path),
        *("--launcher", "pytorch"),
    )
    wait_for(tmp_path / "epoch_1.pth", lambda: launcher.poll() is None)
    os.kill(children(launcher.pid)[1], signal.SIGKILL)
    out, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, err
    assert f"started again: resuming {tmp_path}/epoch_1.pth".encode() in out
    require_equal(tmp_path, reference)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_torchrun_passes_a_signal_on_with_the_flag_of_the_documentation(tmp_path, number):
    (flag,) = set(re.findall(r"--signals-to-handle (\S+)", (REPOSITORY / PAGE).read_text()))
    launcher = torchrun(
        *("--nproc-per-node", 2, "--max-restarts", 1, "--master-port", free_port()),
        *("--signals-to-handle", flag),
        *training(tmp_path),
        *("--launcher", "pytorch"),
    )
    wait_for(tmp_path / "epoch_1.pth", lambda: launcher.poll() is None)
    # Slurm signals the workers, too
    for pid in [launcher.pid, *children(launcher.pid)]:
        os.kill(pid, number)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    line = f"stopped by {number.name}: continue from {tmp_path}/stopped.pth with --resume"
    assert err.decode().count(line) == 2
    assert 8 < read_checkpoint(tmp_path / "stopped.pth")["meta"]["iter"] < 16


@pytest.mark.exhaustive
def test_two_nodes_train_as_one(reference, tmp_path):
    port = free_port()
    nodes = [
        torchrun(
            *("--nnodes", 2, "--node-rank", rank, "--master-port", port),
            *("--master-addr", "127.0.0.1", "--nproc-per-node", 1),
            *training(tmp_path),
            *("--launcher", "pytorch"),
        )
        for rank in range(2)
    ]
    for node in nodes:
        _, err = node.communicate(timeout=300)
        assert node.returncode == 0, err
    require_equal(tmp_path, reference)


@pytest.mark.upstream
@pytest.mark.parametrize(
    ("number", "asked", "optimizer"),
    [
        (signal.SIGUSR1, [1], ["type=AdamW"]),
        pytest.param(signal.SIGTERM, [0, 1], DIVIDED, marks=pytest.mark.exhaustive),
    ],
)
def test_a_requeued_job_goes_on_where_a_signal_stopped_it(
    reference, tmp_path, number, asked, optimizer
):
    options = ["train_dataloader.num_workers=1"]
    options += [f"optim_wrapper.optimizer.{key}" for key in optimizer]
    pids, wait = start_warm(*ranks(training(tmp_path, *options)))
    wait_for(tmp_path / "epoch_1.pth")
    begin = time.monotonic()
    for rank in asked:
        # Slurm signals all processes of a job, and the loaders of data must survive it
        for pid in [*children(pids[rank]), pids[rank]]:
            os.kill(pid, number)
    results = wait()
    assert time.monotonic() - begin < 30
    assert [code for code, _, _ in results] == [128 + number] * 2, results
    line = f"stopped by {number.name}: continue from {tmp_path}/stopped.pth with --resume"
    assert all(line in err for _, _, err in results)
    meta = read_checkpoint(tmp_path / "stopped.pth")["meta"]
    assert 8 < meta["iter"] < 16
    assert meta[IMAGES] == (meta["iter"] - 8) * 8
    (_, out, _), _ = run_together(ranks(training(tmp_path, *options), SLURM_RESTART_COUNT="1"))
    assert f"started again: resuming {tmp_path}/stopped.pth" in out
    # no setting differs
    assert "--resume:" not in out
    assert not (tmp_path / "stopped.pth").exists()
    require_equal(tmp_path, reference)


def test_a_divided_state_goes_on_from_a_whole_one_and_is_saved_as_one(reference, tmp_path):
    options = [f"optim_wrapper.optimizer.{key}" for key in DIVIDED]
    flags = ["--resume", reference / "epoch_1.pth"]
    (_, out, _), _ = run_together(ranks(training(tmp_path, *options, flags=flags)))
    # no setting differs
    assert "--resume:" not in out
    require_equal(tmp_path, reference)
    divided, whole = (
        read_checkpoint(folder / "epoch_2.pth")["optimizer"] for folder in (tmp_path, reference)
    )
    require_same(divided, whole)


# the lock is the first sign of a training whose processes have joined
@pytest.mark.parametrize(
    ("sign", "place"),
    [pytest.param(".lock", "the start", marks=pytest.mark.exhaustive), ("epoch_1.pth", "")],
)
def test_a_process_that_hangs_is_named_and_all_end(tmp_path, sign, place):
    pids, wait = start_warm(*ranks(training(tmp_path, "env_cfg.dist_cfg.timeout=8")))
    wait_for(tmp_path / sign)
    os.kill(pids[1], signal.SIGSTOP)
    end = time.monotonic() + 60
    while Path(f"/proc/{pids[0]}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(pids[1], signal.SIGKILL)
    (code, _, err), _ = wait()
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    name = rf"process {pids[1]} on \S+|which has never reported"
    assert re.match(rf"error: the job hangs at rank 1 \(({name})\) in {place}", line)
    assert "no process has gone on for 8 s" in line


SLEEPER = """
import time
from mmengine import HOOKS, dist, hooks
@HOOKS.register_module()
class Sleeper(hooks.Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if dist.get_rank() == 1 and runner.iter == 2:
            time.sleep(300)
"""


def test_a_process_that_sleeps_is_named_whoever_notices_first(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    config = tmp_path / "sleepy.py"
    config.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"_base_ = {str(REPOSITORY / CONFIG)!r}\n"
        "custom_imports = dict(imports=['hybrid_backbones', 'sleeper'])\n"
        "custom_hooks = [dict(type='Sleeper')]\n"
    )
    options = [*OPTIONS, "env_cfg.dist_cfg.timeout=8"]
    _, wait = start_warm(*ranks(train(tmp_path / "work", config=config, options=options)))
    results = wait()
    assert [code for code, _, _ in results] == [1, 1]
    lines = [line for _, _, err in results for line in err.splitlines()]
    (named,) = [line for line in lines if "the job hangs at" in line]
    assert re.match(r"error: the job hangs at rank 1 \(process \d+ on \S+\) in ", named)


@pytest.mark.upstream
@pytest.mark.parametrize(
    "config", few_of(["maskrcnn_swiftformer_l1", "fpn_swiftformer_l1"], "fpn_swiftformer_l1")
)
def test_evaluation_by_two_processes_is_that_of_one(tmp_path, config):
    cfg = Config.fromfile(f"configs/{config}.py")
    apply_mini(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / "random.pth")
    predictions, values = [], []
    for number in (1, 2):
        folder = tmp_path / str(number)
        flags = ["--out", folder / "out.pkl", "--cfg-options", "test_dataloader.dataset.indices=3"]
        command = evaluate(folder, tmp_path / "random.pth", *flags, config=f"configs/{config}.py")
        run_together(ranks(command, number))
        predictions.append(pickle.loads((folder / "out.pkl").read_bytes()))
        (path,) = folder.glob("*/*_*.json")
        values.append(json.loads(path.read_text()))
    assert len(predictions[0]) == 3
    if config.startswith("maskrcnn"):
        assert all(len(image["pred_instances"]["scores"]) for image in predictions[0])
    require_same(*predictions)
    timing = ("time", "data_time")
    one, two = ({k: v for k, v in found.items() if k not in timing} for found in values)
    assert one == two
    assert one


def test_validation_by_two_processes_is_the_evaluation_of_the_checkpoint_by_one(
    reference, tmp_path
):
    flags = ("--cfg-options", "test_dataloader.dataset.indices=59")
    code, _, err = run_warm(*evaluate(tmp_path, reference / "epoch_2.pth", *flags, config=CONFIG))
    assert code == 0, err
    assert metric_on_file(tmp_path) == metrics(reference)[-1]
