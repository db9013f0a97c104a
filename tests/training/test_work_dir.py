"""A work dir belongs to one training at a time."""

import multiprocessing
import os
import re
import signal
import socket
from argparse import Namespace

import pytest
from mmengine.config import Config
from tool_runs import run_warm, train

from hybrid_backbones.training import launch
from hybrid_backbones.training.errors import one_line_errors
from hybrid_backbones.training.restarts import note_begin
from hybrid_backbones.training.work_dir import LOCK, is_first_process, locked

# a process of its own, in which the lock of this one is another's
FORK = multiprocessing.get_context("fork")


def try_to_lock(work_dir, answers):
    try:
        with locked(work_dir):
            answers.put(None)
    except ValueError as error:
        answers.put(str(error))


def refusal(work_dir):
    """Return what another process is told that wants this work dir."""
    answers = FORK.SimpleQueue()
    process = FORK.Process(target=try_to_lock, args=(work_dir, answers))
    process.start()
    process.join()
    return answers.get()


def test_a_work_dir_in_use_is_refused_with_its_holder_and_free_afterwards(tmp_path):
    with locked(tmp_path):
        told = refusal(tmp_path)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert re.search(rf"{tmp_path} is in use by another training, {holder}.*--work-dir", told)
    assert refusal(tmp_path) is None


def test_an_error_frees_the_work_dir(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    # else the next training would say that this one was killed
    assert (tmp_path / LOCK).read_text() == ""
    assert refusal(tmp_path) is None


def train_with_a_worker(work_dir, pids):
    with locked(work_dir):
        if worker := os.fork():
            pids.put(worker)
        signal.pause()


def test_a_killed_training_frees_its_work_dir_although_a_worker_lives_on(tmp_path, capfd):
    pids = FORK.SimpleQueue()
    process = FORK.Process(target=train_with_a_worker, args=(tmp_path, pids))
    process.start()
    worker = pids.get()
    try:
        assert f"process {process.pid} " in refusal(tmp_path)
        process.kill()
        process.join()
        assert refusal(tmp_path) is None
        assert f"was in use by process {process.pid}" in capfd.readouterr().out
    finally:
        # a failure must not leave processes for which pytest would wait forever
        process.kill()
        os.kill(worker, signal.SIGKILL)


def test_a_second_training_is_refused_in_one_line_and_changes_nothing(tmp_path):
    (tmp_path / "epoch_1.pth").write_bytes(b"of the first")
    with locked(tmp_path):
        code, _, err = run_warm(*train(tmp_path))
    assert code == 1
    assert re.fullmatch(r"error: .* is in use by another training.*\n", err)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "epoch_1.pth"]


@pytest.mark.parametrize(
    ("launcher", "variable"),
    [("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")],
)
def test_one_process_locks_for_all(monkeypatch, launcher, variable):
    monkeypatch.setenv(variable, "0")
    assert is_first_process(launcher)
    monkeypatch.setenv(variable, "3")
    assert not is_first_process(launcher)
    # an allocation of slurm, in which a single process is started without its launcher
    assert is_first_process("none")


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


@pytest.fixture
def _sigterm_is_an_error():
    """Fail where nothing catches SIGTERM, which would else end pytest."""

    def fail(*_):
        raise AssertionError("SIGTERM would have killed the process")

    before = signal.signal(signal.SIGTERM, fail)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm_is_an_error")
@pytest.mark.parametrize(
    ("checkpoint", "begun", "resume", "named"),
    [
        ("epoch_1.pth", True, None, "epoch_1.pth"),
        (None, True, None, None),
        # of an earlier training
        ("epoch_1.pth", False, None, None),
        ("epoch_1.pth", False, "auto", "epoch_1.pth"),
        ("epoch_1.pth", False, "epoch_9.pth", "epoch_9.pth"),
        ("epoch_1.pth", True, "epoch_9.pth", "epoch_1.pth"),
        (None, True, "epoch_9.pth", "epoch_9.pth"),
        (None, False, "auto", None),
    ],
)
def test_sigterm_ends_a_training_as_ctrl_c_does(
    tmp_path, monkeypatch, capsys, checkpoint, begun, resume, named
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "prepare_run", lambda *_: Config(dict(work_dir=".")))
    monkeypatch.setattr(launch, "_train", terminate)
    if checkpoint:
        (tmp_path / checkpoint).touch()
    if begun:
        note_begin(tmp_path)
    with pytest.raises(SystemExit) as stop, one_line_errors():
        launch.train(Namespace(launcher="none", resume=resume))
    assert stop.value.code == 128 + signal.SIGTERM
    kept = f"continue from {named} with --resume"
    line = kept if named else "there is no checkpoint yet"
    assert capsys.readouterr().err.strip() == f"stopped by SIGTERM: {line}"
