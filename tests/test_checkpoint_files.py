"""Laws of reading checkpoints: what is none is refused by name, and no code in one is run."""

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from hybrid_backbones.backbones import ACmixResNet
from hybrid_backbones.checkpoints import load_published, read_state_dict

pytestmark = pytest.mark.upstream

DEPTH = 26


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*absent\.pth"):
        load_published(ACmixResNet(DEPTH), tmp_path / "absent.pth")


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
    with pytest.raises(ValueError, match=r"cannot read .*broken\.pth|no weights"):
        load_published(ACmixResNet(DEPTH), path)


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
