"""Laws of loads by the host in a run: no code is run, and nothing is skipped in silence."""

import logging
import os
import pickle
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner.checkpoint import CheckpointLoader, get_external_models, get_torchvision_models
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hybrid_backbones.checkpoints import guard_loads, read_checkpoint

pytestmark = pytest.mark.upstream
# seconds to wait for another thread
PATIENCE = 60


class Trap:
    """Makes a directory where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "mark"


@pytest.fixture
def trap(tmp_path, mark):
    torch.save(dict(state_dict=dict(a=torch.ones(2)), trap=Trap(mark)), tmp_path / "trap.pth")
    return tmp_path / "trap.pth"


@pytest.fixture
def warnings():
    """What is logged as a warning meanwhile."""
    texts, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


ADDRESSES = {
    "path": None,
    "http": lambda: "https://example.org/weights.pth",
    "torchvision": lambda: get_torchvision_models()["resnet50"],
    "open-mmlab": lambda: get_external_models()["resnet50_v1c"],
}


@pytest.mark.parametrize("kind", ADDRESSES)
def test_the_host_runs_no_code_of_a_checkpoint(trap, mark, kind, monkeypatch):
    address = str(trap)
    if find_url := ADDRESSES[kind]:
        # a file that has been downloaded before
        cache = trap.parent / "checkpoints"
        if kind == "http":
            cache /= sha256(find_url().encode()).hexdigest()[:16]
        cache.mkdir(parents=True)
        trap.rename(cache / find_url().rpartition("/")[2])
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(trap.parent))
        names = dict(torchvision="torchvision://resnet50")
        names["open-mmlab"] = "open-mmlab://resnet50_v1c"
        address = names.get(kind, find_url())
    with guard_loads(), pytest.raises(ValueError, match=r"names pathlib\S* which .* run code"):
        CheckpointLoader.load_checkpoint(address)
    assert not mark.exists()


def test_no_library_runs_code_of_a_checkpoint_even_where_it_asks_to(trap, mark):
    with guard_loads(), pytest.raises(ValueError, match=r"trap\.pth.*run code"):
        torch.load(trap, weights_only=False)
    assert not mark.exists()
    # the trap does work, and the guard ends with the run
    torch.load(trap, weights_only=False)
    assert mark.is_dir()


class Loads(Dataset):
    """A data set that loads a file as a careless transform would."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return torch.load(self.path, weights_only=False)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_run_no_code_of_a_checkpoint(trap, mark, method):
    loader = DataLoader(Loads(trap), num_workers=1, multiprocessing_context=method)
    with guard_loads(), pytest.raises(Exception, match=r"pathlib\S*Path"):
        next(iter(loader))
    assert not mark.exists()


class Lookup:
    """Looks up an attribute where it is unpickled, as mmengine's log does for its statistics."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


def test_a_file_that_the_host_reads_cannot_reach_for_attributes(tmp_path):
    torch.save(dict(log=Lookup()), tmp_path / "lookup.pth")
    with guard_loads(), pytest.raises(ValueError, match=r"lookup\.pth.*may not look up '__init__'"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "lookup.pth"))


def test_a_file_cannot_reach_for_attributes_where_a_library_allows_it(tmp_path, monkeypatch):
    torch.save(dict(log=Lookup()), tmp_path / "lookup.pth")
    allowed = []

    def load(*args, **kwargs):
        # which of two entries of one name counts is by chance
        allowed.extend(torch.serialization.get_safe_globals())
        return torch.load(*args, **kwargs)

    monkeypatch.setattr("hybrid_backbones.checkpoints.files._torch_load", load)
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([getattr, Trap])
    try:
        with pytest.raises(ValueError, match=r"lookup\.pth.*may not look up '__init__'"):
            read_checkpoint(tmp_path / "lookup.pth")
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert getattr not in allowed
    # what users allow stays so
    assert Trap in allowed


def test_logs_are_read_by_the_host_and_then_by_us(tmp_path):
    path = tmp_path / "log.pth"
    torch.save(dict(log=HistoryBuffer([1.0, 2.0], [1, 1])), path)
    with guard_loads():
        contents = [CheckpointLoader.load_checkpoint(str(path)) for _ in range(2)]
    contents.append(read_checkpoint(path))
    assert [content["log"].mean() for content in contents] == [1.5] * 3


def test_the_host_reads_logs_without_a_guard(tmp_path):
    path = tmp_path / "log.pth"
    torch.save(dict(log=HistoryBuffer([1.0, 2.0], [1, 1])), path)
    log = CheckpointLoader.load_checkpoint(str(path))["log"]
    assert type(log.data[0]) is np.ndarray
    assert log.mean() == 1.5


def test_who_must_can_run_the_code_after_a_warning(trap, mark, warnings):
    with guard_loads(run_code=True):
        CheckpointLoader.load_checkpoint(str(trap))
        assert mark.is_dir()
        mark.rmdir()
        read_checkpoint(trap)
        assert mark.is_dir()
    (warning,) = warnings
    assert "run as a program" in warning
    with pytest.raises(ValueError, match="run code"):
        read_checkpoint(trap)


def runs_code(trap, mark, *, is_elsewhere):
    """Return whether a load, perhaps in a new thread, runs the code of the trap."""

    def load():
        with suppress(ValueError):
            read_checkpoint(trap)

    if is_elsewhere:
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    else:
        load()
    ran = mark.is_dir()
    if ran:
        mark.rmdir()
    return ran


# what the outer and the inner guard say, and whether code runs within both in this and a new thread
GUARDED = [(True, True, True, True), (True, False, False, False), (False, True, True, False)]


@pytest.mark.parametrize(("outer", "inner", "here", "elsewhere"), GUARDED)
def test_new_threads_run_code_only_where_all_guards_admit_it(
    trap, mark, outer, inner, here, elsewhere
):
    def seen():
        return [runs_code(trap, mark, is_elsewhere=elsewhere) for elsewhere in (False, True)]

    with guard_loads(run_code=outer):
        assert seen() == [outer, outer]
        with guard_loads(run_code=inner):
            assert seen() == [here, elsewhere]
        assert seen() == [outer, outer]
    assert seen() == [False, False]


def test_a_thread_with_its_own_guard_stays_safe_whatever_others_admit(trap, mark):
    def run():
        with guard_loads():
            entered.set()
            go_on.wait(PATIENCE)
            ran.append(runs_code(trap, mark, is_elsewhere=False))
            done.set()
            leave.wait(PATIENCE)

    entered, go_on, done, leave = (threading.Event() for _ in range(4))
    ran = []
    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(PATIENCE)
    with guard_loads(run_code=True):
        go_on.set()
        assert done.wait(PATIENCE)
    # guards end in the reverse order, as each restores what it has found
    leave.set()
    thread.join()
    assert ran == [False]


@pytest.mark.parametrize("run_code", [False, True])
def test_everything_is_as_before_when_the_run_is_over(monkeypatch, run_code):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    def state():
        loader = vars(CheckpointLoader)["load_checkpoint"]
        return torch.load, PretrainedInit.__call__, loader, dict(os.environ)

    before = state()
    with pytest.raises(KeyboardInterrupt), guard_loads(run_code=run_code):
        raise KeyboardInterrupt
    assert state() == before


def test_tensors_between_processes_are_no_checkpoints():
    with guard_loads():
        received = pickle.loads(pickle.dumps(dict(a=torch.arange(3), b=torch.ones(2).half())))
    assert torch.equal(received["a"], torch.arange(3))
    assert torch.equal(received["b"], torch.ones(2).half())


class Net(BaseModule):
    """A network that a checkpoint may fit in part."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)


def init_pretrained(path, content, **kwargs):
    torch.save(content, path)
    net = Net(dict(type="Pretrained", checkpoint=str(path), **kwargs))
    with guard_loads():
        net.init_weights()
    return net


def weights(**changes):
    return {name: torch.rand_like(x.float()) for name, x in Net().state_dict().items()} | changes


def test_pretrained_loads_what_fits_and_logs_the_rest(tmp_path, warnings):
    content = weights(**{"fc.weight": torch.ones(2)})
    del content["bn.bias"], content["bn.num_batches_tracked"]
    net = init_pretrained(tmp_path / "part.pth", dict(state_dict=content))
    assert torch.equal(net.conv.weight, content["conv.weight"])
    (warning,) = warnings
    assert warning == "Net: 1 entries missing (bn.bias), 1 unexpected (fc.weight)"


def test_pretrained_loads_the_part_under_a_prefix(tmp_path):
    content = {f"backbone.{name}": x for name, x in weights().items()} | dict(head=torch.ones(1))
    net = init_pretrained(tmp_path / "whole.pth", content, prefix="backbone")
    assert torch.equal(net.conv.weight, content["backbone.conv.weight"])


@pytest.mark.parametrize(
    ("content", "settings", "says"),
    [
        (dict(a=torch.ones(1)), {}, r"no entry of it fits Net: expected conv\.weight.*got a"),
        (weights(), dict(prefix="neck"), r"no entry of it fits Net.*none under neck"),
        (weights(**{"conv.bias": torch.ones(5)}), {}, r"size mismatch for conv\.bias.*5.*4"),
        (weights(**{"conv.bias": torch.full((4,), torch.nan)}), {}, r"NaN or infinite: conv\.bias"),
        (weights(**{"conv.bias": torch.ones(4).int()}), {}, r"conv\.bias: torch\.int32"),
        (weights(**{"conv.bias": torch.ones(4).to_sparse()}), {}, r"conv\.bias .* layout"),
        (dict(epoch=3), {}, "no weights"),
        ([1], {}, "no weights"),
    ],
    ids=["names", "prefix", "shape", "nan", "integers", "sparse", "no weights", "list"],
)
def test_pretrained_names_what_cannot_be_loaded(tmp_path, content, settings, says):
    with pytest.raises(ValueError, match=rf"Pretrained with \S*bad\.pth: .*{says}"):
        init_pretrained(tmp_path / "bad.pth", content, **settings)
