"""Laws of `tools/benchmark.py jobs`, with short programs in place of trainings."""

import json
import os
from types import SimpleNamespace

import pytest

from hybrid_backbones.benchmark import jobs
from hybrid_backbones.benchmark.jobs import PATIENCE, benchmark_jobs
from hybrid_backbones.benchmark.settings import Settings
from hybrid_backbones.cli.benchmark import main

SETTINGS = Settings((64, 64), threads=1, repeats=2)


@pytest.fixture
def replace(monkeypatch, tmp_path, mini_root):
    """A function that replaces the trainings by a script, which may write to `notes`."""

    def draw(folder):
        folder.parent.mkdir()
        folder.symlink_to(mini_root)

    def replace_by(script):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/bash\nnotes={tmp_path}/notes\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(jobs, "sys", SimpleNamespace(executable=str(program)))
        # drawing it takes longer than all else
        monkeypatch.setattr(jobs, "draw_mini", draw)
        (tmp_path / "notes").mkdir()
        return tmp_path / "notes"

    return replace_by


def test_each_job_trains_on_the_mini_set_as_it_is_told(replace, tmp_path, monkeypatch):
    notes = replace(
        'echo "${OMP_WAIT_POLICY-unset} ${GOMP_SPINCOUNT-unset} $OMP_NUM_THREADS $@" > $notes/$$\n'
        "ls data/mini >> $notes/$$"
    )
    # which the benchmark sets
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    benchmark_jobs(SETTINGS, tmp_path / "some.py", 2)
    said = sorted(note.read_text().splitlines() for note in notes.iterdir())
    # two repeats, of one job and of two
    ways = [tuple(line.split()[:2]) for line, *_ in said]
    assert ways == [
        *6 * [("ACTIVE", "unset")],
        *6 * [("PASSIVE", "1000")],
        *6 * [("unset", "300000")],
    ]
    for line, *listed in said:
        _, _, threads, *arguments, work_dir = line.split()
        assert threads == "1"
        assert arguments == [
            *("-m", "hybrid_backbones.cli", "train", f"{tmp_path}/some.py", "--mini", "--work-dir")
        ]
        assert not os.path.exists(work_dir)
        assert {"coco", "ade", "imagenet"} <= {*listed}
    assert len({line.split()[-1] for line, *_ in said}) == 18


def test_jobs_run_at_once_and_are_compared_with_one_that_waits_alike(replace, tmp_path):
    # as long as there are jobs
    notes = replace(
        "touch $notes/$$; sleep 0.5; number=$(ls $notes | wc -l); sleep $number; rm $notes/$$"
    )
    rows = benchmark_jobs(Settings((64, 64), threads=1, repeats=1), tmp_path / "some.py", 3)
    assert [(row["policy"], row["jobs"]) for row in rows] == [
        *(("PASSIVE", "1"), ("PASSIVE", "3"), ("ACTIVE", "1"), ("ACTIVE", "3")),
        *(("default", "1"), ("default", "3")),
    ]
    for one, three in zip(rows[::2], rows[1::2], strict=True):
        assert one["slowdown"] == 1
        assert three["slowdown"] == three["seconds"]["median"] / one["seconds"]["median"]
        assert one["seconds"]["median"] >= 1.5
        # each of them counted three
        assert three["seconds"]["median"] >= 3.5
    assert not [*notes.iterdir()]


def test_jobs_that_take_too_long_together_are_stopped(replace, tmp_path):
    # the second one waits for what never comes
    replace("mkdir $notes/first 2> /dev/null || exec sleep 1000; sleep 0.3; rmdir $notes/first")
    rows = benchmark_jobs(Settings((64, 64), threads=1, repeats=1), tmp_path / "some.py", 2)
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert "error" not in one
        assert two["error"].endswith(f"{PATIENCE} times as long as one job takes")
        assert "seconds" not in two


def test_a_training_that_fails_says_why_and_has_an_exit_code(replace, tmp_path, capsys):
    replace("echo first; echo error: no such thing; exit 1")
    out = tmp_path / "jobs.json"
    assert main(["jobs", "imagenet_swiftformer_xs", "--out", str(out)]) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [row["error"] for row in rows] == 6 * ["the training failed: error: no such thing"]
    assert "imagenet_swiftformer_xs PASSIVE 1 was not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet_swiftformer"], "error: no config at imagenet_swiftformer"),
        (["imagenet_swiftformer_xs", "--jobs", "1"], "error: --jobs must be at least 2, got 1"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path):
    out = tmp_path / "jobs.json"
    with pytest.raises(SystemExit) as stopped:
        main(["jobs", *arguments, "--out", str(out)])
    # a text, which Python writes before it exits with 1
    assert stopped.value.code.startswith(message)
    assert "\n" not in stopped.value.code
    assert not out.exists()
