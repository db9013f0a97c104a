"""Laws of drafts: those of killed processes are removed, and nothing else."""

import multiprocessing

import pytest

from hybrid_backbones.mini.drafts import draft_of, drawing


@pytest.fixture
def drafts(tmp_path):
    """A file and a folder that were left behind, and what only looks like them."""
    left = [draft_of(tmp_path / "a"), draft_of(tmp_path / "b.c")]
    others = [*(draft_of(tmp_path / name) for name in ("c", "bxc")), tmp_path / ".a-1"]
    others.append(tmp_path / left[0].name[1:])
    for path in (left[0], *others):
        path.touch()
    (left[1] / "folder").mkdir(parents=True)
    return left, others


def test_what_was_left_behind_is_removed_and_nothing_else(tmp_path, drafts):
    _, others = drafts
    with drawing(tmp_path, "a", "b.c"):
        assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_another_process_draws_is_not_removed(tmp_path, drafts):
    left, _ = drafts
    fork = multiprocessing.get_context("fork")
    begun, stop = fork.Event(), fork.Event()

    def draw():
        with drawing(tmp_path, "another"):
            begun.set()
            stop.wait(60)

    process = fork.Process(target=draw)
    process.start()
    assert begun.wait(60)
    with drawing(tmp_path, "a", "b.c"):
        assert all(path.exists() for path in left)
    process.kill()
    process.join(60)
    with drawing(tmp_path, "a", "b.c"):
        assert not any(path.exists() for path in left)
