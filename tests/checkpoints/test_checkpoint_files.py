"""Laws of reading checkpoints: what is none is refused by name, and no code in one is run."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from hybrid_backbones.backbones import ACmixResNet
from hybrid_backbones.checkpoints import dataset_meta, load_published, load_trained, read_state_dict

DEPTH = 26


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*absent\.pth"):
        load_published(ACmixResNet(DEPTH), tmp_path / "absent.pth")


def test_a_path_of_an_unknown_user_is_named():
    with pytest.raises(ValueError, match=r"no checkpoint at '~no-such-user/absent\.pth'"):
        load_published(ACmixResNet(DEPTH), "~no-such-user/absent.pth")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        load_published(ACmixResNet(DEPTH), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!DOCTYPE html><html>404</html>", id="web page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", id="lfs pointer"),
        pytest.param(b"hello world", id="text"),
        pytest.param(b"Q\xd8&\xba\x9b\xba\xfd\xccfB", id="noise"),
        pytest.param(pickle.dumps([1, 2]), id="list"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*broken\.pth|no weights") as caught:
        load_published(ACmixResNet(DEPTH), path)
    require_one_line_without_advice(caught)


def require_one_line_without_advice(caught):
    """PyTorch's messages advise to run the code in a file."""
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message
    assert "add_safe_globals" not in message


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match=r"cannot read .*empty\.pth.*it is empty"):
        read_state_dict(tmp_path / "empty.pth")


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "program.pth")
    with pytest.raises(ValueError, match=r"cannot read .*program\.pth.*TorchScript") as caught:
        read_state_dict(tmp_path / "program.pth")
    require_one_line_without_advice(caught)


def content_of_records(path):
    """Find where each record of a zip file keeps its content, by name."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            # behind a header of 30 bytes and two fields of lengths that are written there
            start = record.header_offset + 26
            lengths = [int.from_bytes(content[i : i + 2], "little") for i in (start, start + 2)]
            begin = start + 4 + sum(lengths)
            yield record.filename, range(begin, begin + record.file_size)


def test_a_flipped_bit_anywhere_in_the_content_is_found_and_its_record_named(tmp_path):
    whole, path = tmp_path / "whole.pth", tmp_path / "damaged.pth"
    torch.save(dict(state_dict=dict(a=torch.rand(3), b=torch.rand(2))), whole)
    read_state_dict(whole)
    records = dict(content_of_records(whole))
    assert {name.partition("/")[2] for name in records} >= {"data.pkl", "data/0", "data/1"}
    for name, places in records.items():
        for place in places:
            content = bytearray(whole.read_bytes())
            content[place] ^= 1 << place % 8
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"cannot read .*damaged\.pth.*{name}'"):
                read_state_dict(path)


@pytest.mark.skipif(
    not hasattr(torch.serialization, "set_crc32_options"), reason="PyTorch always writes checksums"
)
def test_a_file_that_was_saved_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(a=torch.arange(3)), tmp_path / "unchecked.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(tmp_path / "unchecked.pth")["a"].tolist() == [0, 1, 2]


def small_net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def with_value(value):
    weight = torch.zeros(3, 2)
    weight[1, 1] = value
    return weight


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(with_value(float("nan")), "NaN or infinite", id="nan"),
        pytest.param(with_value(float("inf")), "NaN or infinite", id="inf"),
        pytest.param(with_value(float("-inf")).half(), "NaN or infinite", id="half inf"),
        pytest.param(with_value(float("nan")).bfloat16(), "NaN or infinite", id="bfloat16"),
        pytest.param(torch.full((3, 2), torch.nan).to(torch.float8_e5m2), "NaN", id="8 bits"),
        pytest.param(torch.ones(3, 2).to_sparse(), "layout", id="sparse"),
        pytest.param(torch.ones(3, 2).to_sparse_csr(), "layout", id="sparse rows"),
        pytest.param(torch.ones(3, 2, device="meta"), "meta tensor", id="meta"),
        pytest.param(
            torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.qint8), "quantised", id="int8"
        ),
        pytest.param(torch.ones(3, 2).long(), "torch.int64 instead of torch.float32", id="long"),
        pytest.param(torch.ones(3, 2).bool(), "torch.bool instead of torch.float32", id="bool"),
        pytest.param(torch.ones(3, 2) + 0j, "complex64 instead of torch.float32", id="complex"),
        pytest.param(torch.tensor(1.0), r"\(\) instead of \(3, 2\)", id="number"),
        pytest.param(torch.ones(1, 1).expand(10**6, 10**6), "instead of", id="enormous"),
        pytest.param("weight", "no weights", id="text"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_value_that_is_no_weight_is_named_and_nothing_is_loaded(tmp_path, value, says):
    net, given = small_net(), small_net().state_dict()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    torch.save(dict(state_dict=dict(given) | {"0.weight": value}), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=says) as caught:
        load_trained(net, tmp_path / "odd.pth")
    assert "0.weight" in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, x in net.state_dict().items():
        assert torch.equal(x, before[name])


def test_weights_of_fewer_bits_load(tmp_path):
    net, given = small_net(), small_net().state_dict()
    given["0.weight"] = torch.full((3, 2), 0.5).to(torch.float8_e4m3fn)
    load_trained(net, given)
    assert torch.equal(net[0].weight, torch.full((3, 2), 0.5))


def test_a_model_that_is_wrapped_for_several_processes_takes_the_same_file():
    net, given = small_net(), small_net().state_dict()
    load_trained(nn.DataParallel(net), given)
    assert torch.equal(net[0].weight, given["0.weight"])


META = dict(classes=("cat", "dog"), palette=[(0, 0, 0), (1, 1, 1)])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (dict(meta=dict(dataset_meta=META)), META),
        (dict(meta=dict(dataset_meta=None)), None),
        (dict(meta=dict(dataset_meta={})), None),
        (dict(meta=dict(dataset_meta=dict(classes="cat"))), None),
        (dict(meta=dict(dataset_meta=dict(classes=3))), None),
        (dict(meta={}), None),
        (dict(meta=None), None),
        (dict(meta=[1]), None),
        (dict(a=torch.ones(1)), None),
        ([1], None),
    ],
    ids=str,
)
def test_the_classes_of_a_checkpoint_are_known_or_not(tmp_path, content, expected):
    torch.save(content, tmp_path / "some.pth")
    assert dataset_meta(tmp_path / "some.pth") == expected
    assert dataset_meta(content) == expected


def test_a_bug_of_ours_is_not_taken_for_a_broken_file(tmp_path, monkeypatch):
    torch.save(dict(a=torch.zeros(1)), tmp_path / "good.pth")
    monkeypatch.delattr("hybrid_backbones.checkpoints.files.RUN_CODE")
    with pytest.raises(NameError):
        read_state_dict(tmp_path / "good.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "old format"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, legacy):
    path = tmp_path / "short.pth"
    torch.save(dict(a=torch.zeros(3)), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for length in range(0, len(content), 5):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cannot read .*short\.pth"):
            read_state_dict(path)


class Trap:
    """Makes a directory where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "old format"])
def test_code_in_a_file_is_not_run(tmp_path, legacy):
    path, mark = tmp_path / "trap.pth", tmp_path / "mark"
    content = dict(state_dict=ACmixResNet(DEPTH).state_dict(), trap=Trap(mark))
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"cannot read .*trap\.pth"):
        load_published(ACmixResNet(DEPTH), path)
    assert not mark.exists()
    # the trap does work
    torch.load(path, weights_only=False)
    assert mark.is_dir()


def test_code_in_a_bare_pickle_is_not_run(tmp_path):
    path, mark = tmp_path / "trap.pkl", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match=r"cannot read .*trap\.pkl"):
        load_published(ACmixResNet(DEPTH), path)
    assert not mark.exists()


class Lookup:
    """Looks up an attribute where it is unpickled, as mmengine's log does for its statistics."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


def test_a_file_cannot_reach_for_attributes(tmp_path):
    path = tmp_path / "lookup.pth"
    torch.save(dict(state_dict=ACmixResNet(DEPTH).state_dict(), log=Lookup()), path)
    with pytest.raises(ValueError, match=r"cannot read .*lookup\.pth"):
        load_published(ACmixResNet(DEPTH), path)
