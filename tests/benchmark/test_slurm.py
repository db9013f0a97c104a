"""Laws of Slurm: what queues a job again, of the leaderboard and of the page on clusters."""

import os
import re
import signal
import subprocess

import pytest

from hybrid_backbones.benchmark import one_run
from hybrid_backbones.benchmark.launchers import queued_again_at_time_limit
from hybrid_backbones.training.errors import Terminated


@pytest.fixture
def requeued(tmp_path, install, monkeypatch):
    """The file with what was asked of Slurm, by a task of an array whose signals are the tests'."""
    install(scontrol=f'echo "$@" > {tmp_path}/requeued')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "42")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setattr(one_run, "stop_on_sigterm", lambda *_: None)
    return tmp_path / "requeued"


def save(run, name, seconds):
    """Write a checkpoint of a run, as at a time in seconds."""
    run.work_dir.mkdir(exist_ok=True)
    (run.work_dir / name).touch()
    os.utime(run.work_dir / name, (seconds, seconds))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("last", [None, "epoch_3.pth", "stopped.pth"])
def test_a_task_is_queued_again_at_its_time_limit_alone(make, requeued, number, last):
    run = make("a")
    if last:
        save(run, last, 1)

    def stop():
        save(run, "stopped.pth", 2)
        raise Terminated(number)

    with pytest.raises(Terminated), queued_again_at_time_limit(run):
        stop()
    assert run.error is None
    assert requeued.is_file() == (number == signal.SIGUSR1)
    assert not requeued.is_file() or requeued.read_text() == "requeue 42_3\n"


@pytest.mark.parametrize("last", [None, "epoch_3.pth"])
def test_a_task_that_saves_nothing_within_its_time_limit_has_failed(
    make, requeued, monkeypatch, last
):
    def stop(_):
        raise Terminated(signal.SIGUSR1)

    run = make("a")
    if last:
        save(run, last, 1)
    monkeypatch.setattr(one_run, "complete", stop)
    with pytest.raises(SystemExit, match="error: no progress within the time limit"):
        one_run.main([str(run.folder)])
    assert "give more by --sbatch time=" in run.error
    assert not requeued.exists()


def test_a_task_is_queued_again_before_the_page_is_written(make, requeued, monkeypatch):
    def stop(run):
        save(run, "stopped.pth", 1)
        raise Terminated(signal.SIGUSR1)

    def write_board(out):
        assert requeued.is_file()
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr(one_run, "complete", stop)
    monkeypatch.setattr(one_run, "write_board", write_board)
    with pytest.raises(SystemExit) as ended:
        one_run.main([str(make("a").folder), "--write-page"])
    assert ended.value.code == 128 + signal.SIGTERM


# a step that saves a checkpoint, if one is named, later than what was before
SRUN = """
printf '%s\\n' "$@" > srun
if [ "$SAVED" ]; then sleep 0.1; touch "work_dirs/acmix/$SAVED"; fi
exit "$CODE"
"""
# by script of the page: exit code of the step, what it saves, and whether the job goes on
ENDS = {
    0: [(138, "stopped.pth", True), (138, "", True), (1, "epoch_2.pth", False), (0, "", False)],
    1: [
        (1, "stopped.pth", True),
        (1, "epoch_2.pth", True),
        (1, "", False),
        (0, "epoch_2.pth", False),
    ],
}


@pytest.mark.parametrize("script", ENDS)
def test_a_job_of_the_page_is_queued_again_if_it_was_stopped(
    tmp_path, repository, install, monkeypatch, script
):
    page = (repository / "docs/clusters.md").read_text()
    code = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)[script]
    install(srun=SRUN, scontrol='[ "$1" = show ] && echo node1 || echo "$@" > requeued')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    saved = tmp_path / "work_dirs/acmix/epoch_1.pth"
    saved.parent.mkdir(parents=True)
    saved.touch()
    given = dict(SLURM_JOB_ID="42", SLURM_JOB_NODELIST="node[1-2]", SLURM_CPUS_PER_TASK="6")
    for exit_code, saves, goes_on in ENDS[script]:
        settings = os.environ | given | dict(CODE=str(exit_code), SAVED=saves)
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, env=settings)
        assert done.returncode == exit_code
        requeued = tmp_path / "requeued"
        assert requeued.is_file() == goes_on, (exit_code, saves)
        if goes_on:
            assert requeued.read_text() == "requeue 42\n"
            requeued.unlink()
        assert "--cpus-per-task=6" in (tmp_path / "srun").read_text().splitlines()
