"""Laws of saving: checkpoints are whole and finite, and those of earlier trainings are found."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub, MMLogger
from torch import nn

from hybrid_backbones.training.saving import (
    STOPPED,
    AtomicLocalBackend,
    WholeCheckpointHook,
    advice_for_a_full_disk,
    find_earlier,
    find_last_checkpoint,
    remove_drafts,
    require_elsewhere,
)

pytestmark = pytest.mark.upstream


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    backend, path = AtomicLocalBackend(), tmp_path / "epoch_1.pth"
    backend.put(b"old", path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        backend.put(b"new and longer", path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    # neither the file is put in place nor the draft removed
    monkeypatch.setattr(Path, "replace", kill)
    monkeypatch.setattr(Path, "unlink", kill)
    with pytest.raises(Killed):
        AtomicLocalBackend().put(b"half", tmp_path / "best_accuracy_epoch_1.pth")
    monkeypatch.undo()
    (draft,) = tmp_path.iterdir()
    others = ["epoch_1.pth", "epoch_1.pth.part", ".video.mp4.part", ".part", f"{'a' * 32}.part"]
    for name in others:
        (tmp_path / name).touch()
    inner = tmp_path / "before" / draft.name
    inner.parent.mkdir()
    inner.touch()
    remove_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "before"}
    assert inner.is_file()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_full_disk_says_how_to_go_on(number, tmp_path):
    full = OSError(number, os.strerror(number))
    says = rf"{full.strerror}.*no checkpoint in .* yet: free some space and start again"
    with pytest.raises(ValueError, match=says), advice_for_a_full_disk(tmp_path):
        raise full
    (tmp_path / "epoch_2.pth").touch()
    with (
        pytest.raises(
            ValueError, match=rf"{full.strerror}.*epoch_2\.pth is complete.*use --resume"
        ),
        advice_for_a_full_disk(tmp_path),
    ):
        raise full
    with pytest.raises(PermissionError), advice_for_a_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_the_last_checkpoint_is_found_without_mmengines_pointer(tmp_path):
    assert find_last_checkpoint(tmp_path) is None
    for name in ("epoch_9.pth", "epoch_10.pth", ".epoch_11.pth.abc.part", "best_epoch_12.pth"):
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("")
    assert find_last_checkpoint(tmp_path).name == "epoch_10.pth"
    # of a stop, after which nothing else was saved
    (tmp_path / STOPPED).touch()
    assert find_last_checkpoint(tmp_path).name == STOPPED


@pytest.mark.parametrize("entry", ["bias", "running_var"])
@pytest.mark.parametrize("save", ["_save_checkpoint", "_save_best_checkpoint"])
def test_broken_weights_are_never_saved(tmp_path, entry, save):
    model = nn.BatchNorm1d(2)
    model.state_dict()[entry][1] = float("inf")
    runner = SimpleNamespace(model=model, iter=6, epoch=0, work_dir=tmp_path)
    hook = WholeCheckpointHook(save_best="mIoU", rule="greater")
    with pytest.raises(ValueError, match=rf"no longer finite after iteration 7.*{entry}"):
        getattr(hook, save)(runner, *([{"mIoU": 1.0}] if "best" in save else []))
    assert list(tmp_path.iterdir()) == []


class SavingRunner(SimpleNamespace):
    """A runner that writes an empty file, or fails as a full disk does."""

    full = False

    def save_checkpoint(self, out_dir, filename, *_, **__):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        (Path(out_dir) / filename).write_text(f"iteration {self.iter}")


@pytest.fixture
def runner(tmp_path):
    return SavingRunner(
        **dict(model=nn.BatchNorm1d(2), iter=0, epoch=0, work_dir=str(tmp_path), timestamp="now"),
        optim_wrapper=SimpleNamespace(optimizer=None),
        message_hub=MessageHub.get_instance(f"hub of {tmp_path}"),
        logger=MMLogger.get_current_instance(),
    )


def checkpoints(tmp_path):
    return sorted(path.name for path in tmp_path.glob("*.pth"))


def test_the_last_checkpoint_stays_until_the_next_one_is_whole(runner, tmp_path):
    hook = WholeCheckpointHook(interval=1, max_keep_ckpts=1)
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    runner.epoch, runner.full = 1, True
    with pytest.raises(OSError, match="No space"):
        hook.after_train_epoch(runner)
    assert checkpoints(tmp_path) == ["epoch_1.pth"]
    runner.epoch, runner.full = 2, False
    hook.after_train_epoch(runner)
    assert "epoch_3.pth" in checkpoints(tmp_path)
    runner.epoch = 3
    hook.after_train_epoch(runner)
    assert "epoch_3.pth" not in checkpoints(tmp_path)


def test_the_best_checkpoint_stays_until_a_better_one_is_whole(runner, tmp_path):
    hook = WholeCheckpointHook(interval=1, save_best="mIoU", rule="greater")
    hook.before_train(runner)
    hook.after_val_epoch(runner, {"mIoU": 0.5})
    runner.epoch, runner.full = 1, True
    with pytest.raises(OSError, match="No space"):
        hook.after_val_epoch(runner, {"mIoU": 0.6})
    assert checkpoints(tmp_path) == ["best_mIoU_epoch_0.pth"]


def test_a_better_checkpoint_takes_the_place_of_the_last(runner, tmp_path):
    hook = WholeCheckpointHook(interval=1, save_best="mIoU", rule="greater")
    hook.before_train(runner)
    for runner.iter, (runner.epoch, score) in enumerate([(1, 0.5), (1, 0.6), (2, 0.7)]):
        hook.after_val_epoch(runner, {"mIoU": score})
        assert checkpoints(tmp_path) == [f"best_mIoU_epoch_{runner.epoch}.pth"]
        # also where it has the name of the one before
        assert next(tmp_path.glob("best*")).read_text() == f"iteration {runner.iter}"


SAVED = ["best_mIoU_epoch_7.pth", "epoch_6.pth", "epoch_7.pth", "epoch_12.pth"]
SAVED += [STOPPED, "resnet50.pth"]


@pytest.mark.parametrize(
    ("resumed", "done", "earlier"),
    [
        # a new training
        (None, 0, SAVED[:5]),
        # of another folder
        ("../epoch_6.pth", 6, SAVED[:5]),
        # the last one, and one before it
        ("epoch_12.pth", 12, [STOPPED]),
        ("epoch_6.pth", 6, ["epoch_7.pth", "epoch_12.pth", STOPPED]),
        ("best_mIoU_epoch_7.pth", 7, ["epoch_12.pth", STOPPED]),
        (STOPPED, 12, []),
    ],
)
def test_checkpoints_that_a_training_may_overwrite_are_found(tmp_path, resumed, done, earlier):
    for name in SAVED:
        (tmp_path / name).touch()
    found = find_earlier(tmp_path, resumed and tmp_path / resumed, done)
    assert sorted(path.name for path in found) == sorted(earlier)


def test_a_published_name_is_no_file_of_the_work_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_elsewhere("uniformer_small_in1k", ".")
    (tmp_path / "epoch_1.pth").touch()
    with pytest.raises(ValueError, match=r"load_from=epoch_1\.pth is in the work dir"):
        require_elsewhere("epoch_1.pth", ".")
