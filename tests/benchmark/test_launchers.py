"""Laws of the launchers: processes of this machine and arrays of Slurm, without any training."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from filelock import FileLock

from hybrid_backbones.benchmark import launchers, one_run
from hybrid_backbones.benchmark.launchers import (
    IN_USE,
    WARNING,
    queued_job,
    require_none_queued,
    run_here,
    submit,
    write_script,
)
from hybrid_backbones.training.errors import stop_on_sigterm
from hybrid_backbones.training.stop import GRACE, SIGNALS

# a run that says when it began and ended, and then does as its config is called
FAKE = """
import json, pathlib, sys, threading, time, os, signal
folder = pathlib.Path(sys.argv[1])
name = json.loads((folder / "run.json").read_text())["config"]
note = lambda what: (folder / what).write_text(str(time.time()))
note("began")
(folder / "pid").write_text(str(os.getpid()))
for variable in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
    (folder / variable).write_text(os.environ.get(variable, ""))
if "endless" in name:
    sys.stdin.read()
    sys.exit(143)
if "fails" in name:
    sys.exit(3)
time.sleep(0.3)
note("ended")
(folder / "result.json").write_text("{}")
"""
# a run that does not stop
DEAF = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "deaf").touch()
if folder.name.startswith("b"):
    while not (folder.parent / "a_0/deaf").exists():
        time.sleep(0.05)
    (folder / "result.json").write_text("{}")
else:
    time.sleep(60)
"""


@pytest.fixture
def fake(monkeypatch):
    """Runs are fakes."""
    monkeypatch.setattr(launchers, "COMMAND", (sys.executable, "-S", "-c", FAKE))


def test_stopped_runs_have_the_time_that_the_page_on_clusters_names(repository):
    page = (repository / "docs/clusters.md").read_text()
    assert f"below the {GRACE} seconds" in page
    assert f"{WARNING} seconds before its time limit" in page


def test_a_stopped_run_has_its_time_before_it_is_killed(make, monkeypatch):
    monkeypatch.setattr(launchers, "COMMAND", (sys.executable, "-S", "-c", DEAF))
    monkeypatch.setattr(launchers, "GRACE", 1.5)
    ended = run_here([make("a"), make("b")], 2)
    assert next(ended).name == "b"
    begin = time.monotonic()
    ended.close()
    assert 1.5 <= time.monotonic() - begin < 20


@pytest.mark.usefixtures("fake")
def test_runs_are_computed_some_at_a_time_and_one_that_fails_stops_no_other(make):
    runs = [make(name) for name in ("a", "b", "c", "fails", "d")]
    assert {run.name for run in run_here(runs, 2)} == {"a", "b", "c", "d", "fails"}
    assert [run.name for run in runs if run.result is None] == ["fails"]
    assert "exit code 3" in runs[3].error
    times = [
        tuple(float((run.folder / what).read_text()) for what in ("began", "ended"))
        for run in runs
        if run.result is not None
    ]
    at_once = [sum(a <= start < b for a, b in times) for start, _ in times]
    assert max(at_once) == 2


def test_a_run_that_another_process_computes_has_not_failed(make, monkeypatch, capsys):
    run = make("a")
    monkeypatch.setattr(one_run, "PATIENCE", 0)
    # SIGTERM stays the tests' own
    monkeypatch.setattr(one_run, "stop_on_sigterm", lambda *_: None)
    with FileLock(run.folder / ".run.lock"), pytest.raises(SystemExit) as stop:
        one_run.main([str(run.folder)])
    assert stop.value.code == IN_USE
    assert (
        capsys.readouterr().err
        == f"error: {run.folder} is in use by another process: wait for it\n"
    )
    code = f"import sys; sys.exit({IN_USE})"
    monkeypatch.setattr(launchers, "COMMAND", (sys.executable, "-S", "-c", code))
    assert list(run_here([run], 1)) == [run]
    assert run.error is None


@pytest.mark.usefixtures("fake")
def test_each_run_has_a_share_of_the_cores(make, monkeypatch):
    runs = [make(name) for name in ("a", "b")]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(launchers, "THREADS_OF_USER", None)
    list(run_here(runs, 2))
    assert [(run.folder / "OMP_NUM_THREADS").read_text() for run in runs] == ["4", "4"]


@pytest.mark.usefixtures("fake")
def test_who_stops_early_stops_the_runs(make):
    runs = [make("endless"), make("a")]
    ended = run_here(runs, 2)
    assert next(ended).name == "a"
    pid = int((runs[0].folder / "pid").read_text())
    ended.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    # it goes on another time
    assert runs[0].error is None


@pytest.mark.usefixtures("fake")
def test_each_run_has_gpus_of_its_own_and_too_few_are_refused(make, monkeypatch):
    monkeypatch.setattr(launchers.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    runs = [replace(make(name), processes=2) for name in ("a", "b")]
    list(run_here(runs, 2))
    assert [(run.folder / "CUDA_VISIBLE_DEVICES").read_text() for run in runs] == ["0,1", "2,5"]
    with pytest.raises(ValueError, match="needs 6 GPUs, but there are 4"):
        next(run_here(runs, 3))


SBATCH = """# all tasks of the array, one after the other
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "${@: -1}")
for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "${@: -1}" < /dev/null || exit 1; done
echo "42;cluster"
"""


@pytest.mark.usefixtures("fake")
def test_the_array_of_slurm_has_a_task_for_each_run(make, tmp_path, install, monkeypatch):
    runs = [replace(make(name), processes=4) for name in ("a", "b c")]
    options = ["partition=gpu", "exclusive", "gres=gpu:h100:4", "comment=two words"]
    script = write_script(runs, tmp_path, 3, options)
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    for option in (
        "array=0-1%3",
        "partition=gpu",
        "exclusive",
        "gres=gpu:h100:4",
        "requeue",
        f"signal=B:USR1@{WARNING}",
        'comment="two words"',
    ):
        assert f"#SBATCH --{option}\n" in text
    assert text.count("--gres") == 1
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=rf"nothing was submitted: .* run sbatch {script}"):
        submit(script)
    install(sbatch=SBATCH, squeue="echo waiting")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{path}")
    assert "as job 42;" in submit(script)
    assert all(run.result is not None for run in runs)
    with pytest.raises(ValueError, match="scancel 42"):
        require_none_queued(tmp_path)
    install(squeue="echo timed out >&2; exit 1")
    with pytest.raises(ValueError, match=r"job 42 of .* failed \(timed out\)"):
        queued_job(tmp_path)
    install(
        squeue="echo Invalid job id specified >&2; exit 1",
        sbatch="echo no such partition >&2; exit 1",
    )
    assert queued_job(tmp_path) is None
    with pytest.raises(ValueError, match=r"refused .*no such partition"):
        submit(script)


@pytest.fixture
def _stopped_by_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)}
    stop_on_sigterm(*SIGNALS)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# torchrun, whose processes take a while to save; each signal is to the run that waits for it
TORCHRUN = """
trap 'kill -{again} $PPID; sleep 0.5; touch {saved}; exit 1' TERM
until [ -e {waits} ]; do sleep 0.1; done
kill -USR1 $PPID
while true; do sleep 0.1; done
"""


@pytest.mark.usefixtures("_stopped_by_signals")
@pytest.mark.parametrize("again", ["INT", "TERM", "USR1"])
def test_a_second_signal_does_not_end_the_wait_for_processes_that_save(
    make, tmp_path, install, monkeypatch, again
):
    run, saved, waits = replace(make("a"), processes=2), tmp_path / "saved", tmp_path / "waits"
    run.settings.write_text("train_cfg = dict(max_epochs=1)")
    install(torchrun=TORCHRUN.format(again=again, saved=saved, waits=waits))
    wait = subprocess.Popen.wait

    def say_and_wait(process, *args, **kwargs):
        waits.touch()
        return wait(process, *args, **kwargs)

    monkeypatch.setattr(subprocess.Popen, "wait", say_and_wait)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/torchrun"))
    with pytest.raises(KeyboardInterrupt) as stop:
        one_run.complete(run)
    assert stop.value.number == signal.SIGUSR1
    assert saved.is_file()
