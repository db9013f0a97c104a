"""What signals, restarts and the watch decide, without other processes."""

import json
import os
import signal
from argparse import Namespace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.distributed import DistNetworkError, DistStoreError, HashStore, TCPStore
from torch.utils.data import DataLoader, TensorDataset

from hybrid_backbones.training import distributed, stop
from hybrid_backbones.training.errors import Terminated, explain
from hybrid_backbones.training.restarts import RESTART_COUNTS, note_begin, resume_after_restart
from hybrid_backbones.training.stop import IMAGES, StopHook, stoppable
from hybrid_backbones.training.watch import (
    NO_REPORT,
    Report,
    Watched,
    describe,
    find_hung,
    read_reports,
)


def watched(*states):
    """Processes by step, and seconds since they last went on and last reported."""
    return [
        Watched(Report(step, 1, f"place {step}", f"process {step}"), 100.0 - moved, 100.0 - lived)
        for step, moved, lived in states
    ]


@pytest.mark.parametrize(
    ("states", "hung"),
    [
        # one has gone on
        ([(5, 11, 0), (4, 9, 0)], None),
        # behind the others
        ([(5, 11, 0), (4, 11, 0), (5, 11, 0)], [1]),
        # silent, wherever it is
        ([(5, 11, 0), (5, 11, 6), (4, 11, 0)], [1]),
        # all wait at one place
        ([(5, 11, 0), (5, 11, 0)], []),
        # a start takes as long as it takes
        ([(0, 99, 0), (0, 99, 9)], None),
        ([(0, 99, 0), (0, 99, 11)], [1]),
        ([(1, 11, 0), (0, 99, 0)], [1]),
    ],
)
def test_the_process_for_which_the_others_wait_has_hung(states, hung):
    assert find_hung(watched(*states), now=100.0, patience=10) == hung


def test_a_line_says_who_hangs_and_where():
    processes = watched((5, 11, 0), (4, 11, 0))
    assert "rank 1 (process 4) in place 4" in describe(processes, [1], 10)
    assert "all are in place 5" in describe(processes, [], 10)


def test_reports_that_change_count_as_progress_and_as_life():
    (process,) = watched((5, 50, 50))
    process.update(Report(5, 2, "", ""), 100.0)
    assert (process.moved, process.lived) == (50.0, 100.0)
    process.update(Report(6, 3, "", ""), 101.0)
    assert (process.moved, process.lived) == (101.0, 101.0)


@pytest.fixture
def _handlers():
    before = [signal.getsignal(number) for number in stop.SIGNALS]
    yield
    for number, handler in zip(stop.SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_acts_at_once_or_when_it_is_deferred_no_longer(number):
    with stoppable() as request:
        with pytest.raises(Terminated) as stopped:
            os.kill(os.getpid(), number)
        assert stopped.value.number == number
        request.number, request.deferred = None, True
        os.kill(os.getpid(), number)
        with pytest.raises(Terminated):
            request.raise_kept()


@pytest.mark.usefixtures("_handlers")
def test_signals_do_what_they_did_before_once_a_training_has_ended():
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    with stoppable():
        assert all(signal.getsignal(number) is not before[number] for number in before)
    assert {number: signal.getsignal(number) for number in before} == before


def loader(num_images, batch_size):
    dataset = TensorDataset(torch.arange(num_images))
    return DataLoader(dataset, batch_size, sampler=DefaultSampler(dataset, seed=3))


def test_the_rest_of_an_epoch_has_the_images_that_were_not_trained():
    whole = loader(12, 2)
    runner = SimpleNamespace(train_dataloader=whole, train_loop=SimpleNamespace(dataloader=whole))
    # six images, whatever the size of their batches was
    hook = StopHook(stop.StopRequest(), {IMAGES: 6})
    hook.before_train_epoch(runner)
    rest = runner.train_loop.dataloader
    assert len(rest) == 3
    assert torch.equal(torch.cat([x for (x,) in rest]), torch.cat([x for (x,) in whole])[6:])
    hook.after_train_epoch(runner)
    assert runner.train_loop.dataloader is whole
    # the next epochs are whole
    hook.before_train_epoch(runner)
    assert runner.train_loop.dataloader is whole


def train_nine(hook, runner):
    for runner.iter in range(9):
        hook.after_train_iter(runner, runner.iter)


@pytest.mark.parametrize("every", [1, 4])
def test_a_training_stops_after_a_step_of_the_optimizer(monkeypatch, tmp_path, every):
    saved = []
    monkeypatch.setattr(stop, "prepare_to_save", lambda runner: None)
    runner = SimpleNamespace(
        iter=0,
        epoch=0,
        cfg=SimpleNamespace(train_cfg=dict(max_epochs=2)),
        work_dir=str(tmp_path),
        train_dataloader=loader(64, 2),
        save_checkpoint=lambda *args, meta, **kwargs: saved.append(meta),
    )
    hook = StopHook(stop.StopRequest(), every=every)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    hook.request.number = signal.SIGUSR1
    with pytest.raises(Terminated):
        train_nine(hook, runner)
    done = {1: 2, 4: 4}[every]
    assert saved == [{"epoch": 0, "iter": done, IMAGES: 2 * done}]


def test_all_processes_stop_after_one_iteration_also_those_that_have_begun_the_next(monkeypatch):
    """On GPUs, a process can end the next iteration before another announces the last one."""
    monkeypatch.setattr(stop, "get_world_size", lambda: 2)
    monkeypatch.setattr(stop, "barrier", lambda: None)
    stopped, store, hooks = [], HashStore(), []
    for rank in range(2):
        hook = StopHook(stop.StopRequest())
        hook.store = store
        monkeypatch.setattr(
            hook, "_save", lambda runner, _, rank=rank: stopped.append((rank, runner.iter))
        )
        hooks.append(hook)
    first, ahead = hooks
    first.request.number = signal.SIGTERM
    ahead.after_train_iter(SimpleNamespace(iter=5), 5)
    first.after_train_iter(SimpleNamespace(iter=4), 4)
    first.after_train_iter(SimpleNamespace(iter=5), 5)
    for hook in hooks:
        with pytest.raises(Terminated):
            hook.after_train_iter(SimpleNamespace(iter=6), 6)
    assert stopped == [(0, 6), (1, 6)]


def test_a_job_whose_store_has_ended_stops_by_its_signal_or_says_so_in_one_line():
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    hook = StopHook(stop.StopRequest())
    hook.store = TCPStore("127.0.0.1", server.port, is_master=False)
    # without a signal, nothing is announced
    hook.after_train_iter(SimpleNamespace(iter=0), 0)
    del server
    for _ in range(2):
        with pytest.raises(DistNetworkError) as lost:
            hook.after_train_iter(SimpleNamespace(iter=0), 0)
        assert "another process of the job has ended" in explain(lost.value)
    hook.request.number = signal.SIGUSR1
    with pytest.raises(Terminated) as stopped:
        hook.after_train_iter(SimpleNamespace(iter=0), 0)
    assert stopped.value.number == signal.SIGUSR1


@pytest.mark.parametrize("variable", RESTART_COUNTS)
def test_only_a_restart_goes_on_and_only_from_its_own_checkpoints(tmp_path, monkeypatch, variable):
    def resumed():
        args = Namespace(launcher="none", resume=None, fresh_head=[], batch_size=None)
        resume_after_restart(args, tmp_path)
        assert (args.fresh_head is None) == (args.resume is not None)
        return args.resume

    for name in RESTART_COUNTS:
        monkeypatch.delenv(name, raising=False)
    checkpoint = tmp_path / "epoch_3.pth"
    checkpoint.touch()
    note_begin(tmp_path)
    # a new training over an earlier one, killed before it begins
    assert resumed() is None
    monkeypatch.setenv(variable, "1")
    assert resumed() is None
    note_begin(tmp_path)
    assert resumed() == str(checkpoint)


def test_a_process_that_does_not_come_is_waited_for_and_then_reported_in_one_line():
    brief = timedelta(milliseconds=50)
    with pytest.raises(DistStoreError) as alone:
        TCPStore("127.0.0.1", 0, world_size=2, is_master=True, timeout=brief)
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=brief)
    with pytest.raises(DistStoreError) as missing:
        server.get("key")
    gloo = RuntimeError("[unbound_buffer.cc:129] Timed out waiting 68000ms for send operation")
    for error in (alone.value, missing.value, gloo):
        assert "another process of the job did not join or answer in time" in explain(error)


def test_reports_are_read_without_waiting_for_those_that_are_missing():
    store = HashStore()
    store.set_timeout(timedelta(seconds=1))
    own = Report(3, 4, "place", "process 1")
    store.set("one", json.dumps(own))
    assert read_reports(store, ["one", "other"]) == [own, NO_REPORT]
    store.set("other", json.dumps(own))
    assert read_reports(store, ["one", "other"]) == [own, own]


@pytest.mark.parametrize("patience", [0, "soon"])
def test_a_timeout_is_a_number_of_seconds(patience):
    cfg = distributed.Config(dict(env_cfg=dict(dist_cfg=dict(timeout=patience))))
    with pytest.raises(ValueError, match=r"env_cfg\.dist_cfg\.timeout must be a positive number"):
        distributed.join_processes(cfg)


@pytest.mark.parametrize("unused", [False, True])
def test_processes_without_gpus_expect_unused_parameters_where_the_config_does(monkeypatch, unused):
    cfg = distributed.Config(dict(launcher="pytorch", model={}, find_unused_parameters=unused))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    for name in ("set_multi_processing", "watch_processes"):
        monkeypatch.setattr(distributed, name, lambda *_, **__: None)
    distributed.join_processes(cfg)
    assert cfg.model_wrapper_cfg.find_unused_parameters == unused
