"""Where the runs of a leaderboard are computed: processes of this machine, or an array of Slurm."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..threads import THREADS_OF_USER, usable_cores
from ..training.errors import Terminated
from ..training.saving import find_last_checkpoint
from ..training.stop import GRACE
from .runs import Run
from .tables import write_whole

LAUNCHERS = ("local", "torchrun", "slurm")
PROGRAM = "hybrid_backbones.benchmark.one_run"
COMMAND = (sys.executable, "-m", PROGRAM)
# seconds between two looks at the processes
INTERVAL = 0.2
# of each process that trains, for its data loaders
CPUS_PER_GPU = 5
# seconds before the time limit of Slurm at which a run is stopped, to be queued again
WARNING = 120
# exit code of a run that another process computes, perhaps on another machine
IN_USE = os.EX_TEMPFAIL
SCRIPT, JOB_ID = "leaderboard.sbatch", "slurm_job.txt"


def run_here(runs: Sequence[Run], jobs: int) -> Generator[Run, None, None]:
    """Compute runs in processes of their own on this machine, at most `jobs` at a time.

    However this process ends, its runs stop, and go on from their last checkpoints another time.

    Yields:
        each run as soon as it has finished or failed, or another process turns out to compute it.

    Raises:
        ValueError: if there are too few GPUs.
    """
    waiting, places = deque(runs), _environments(jobs, max((r.processes for r in runs), default=1))
    running: dict[int, tuple[Run, subprocess.Popen]] = {}
    try:
        while waiting or running:
            for place in range(jobs):
                if waiting and place not in running:
                    run = waiting.popleft()
                    running[place] = run, _start(run, places[place])
            ended = [p for p, (_, process) in running.items() if process.poll() is not None]
            for place in ended:
                run, process = running.pop(place)
                if run.result is None and process.returncode != IN_USE:
                    # if the process could say no more itself
                    run.fail(_reason(process.returncode, run.log))
                yield run
            if not ended:
                time.sleep(INTERVAL)
    finally:
        _stop([process for _, process in running.values()])


def _environments(jobs: int, processes: int) -> list[dict[str, str]]:
    """Return the variables of each place: a share of the cores, and GPUs of its own.

    Raises:
        ValueError: if there are GPUs, but too few.
    """
    threads = THREADS_OF_USER or str(max(1, usable_cores() // (jobs * processes)))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    if gpus and torch.cuda.is_available():
        if len(gpus) < jobs * processes:
            raise ValueError(
                f"--jobs {jobs} with {processes} GPUs each needs {jobs * processes} GPUs, but "
                f"there are {len(gpus)}: lower --jobs or --gpus"
            )
        shares = [gpus[i * processes : (i + 1) * processes] for i in range(jobs)]
        own = [dict(CUDA_VISIBLE_DEVICES=",".join(share)) for share in shares]
    else:
        own = [{} for _ in range(jobs)]
    return [dict(OMP_NUM_THREADS=threads) | variables for variables in own]


def _start(run: Run, variables: Mapping[str, str]) -> subprocess.Popen:
    """Start a run in a process that ends when this one does, however it ends."""
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [*COMMAND, str(run.folder), "--with-parent"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            # Ctrl-C is for this process, which stops the other one
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Stop processes, all of which first get the time to stop by themselves."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _reason(code: int, log: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", most likely for lack of memory" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{memory}; see {log}"
    return f"its process ended with exit code {code} without a result; see {log}"


def write_script(runs: Sequence[Run], out: Path, jobs: int, options: Sequence[str]) -> Path:
    """Write the script of a Slurm array with a task for each run.

    Args:
        runs: runs in the order of the tasks; all train with equally many GPUs.
        out: folder of the leaderboard.
        jobs: number of tasks at a time.
        options: further options of sbatch, such as ``partition=gpu``.
    """
    gpus = max((run.processes for run in runs), default=1)
    given = {
        "job-name": "leaderboard",
        "array": f"0-{len(runs) - 1}%{jobs}",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(CPUS_PER_GPU * gpus),
        "gres": f"gpu:{gpus}",
        "chdir": str(Path.cwd()),
        "output": str(out.absolute() / "slurm_%A_%a.log"),
        "open-mode": "append",
        # a task that is put back goes on from its last checkpoint
        "requeue": "",
        # the shell, and thus the run, is told before the time limit
        "signal": f"B:USR1@{WARNING}",
        **dict(option.partition("=")[::2] for option in options),
    }
    lines = [f"#SBATCH --{name}{_quoted(value)}" for name, value in given.items()]
    folders = "\n".join(f"  {shlex.quote(str(run.folder.absolute()))}" for run in runs)
    text = "\n".join(
        [
            "#!/bin/bash",
            *lines,
            f"runs=(\n{folders}\n)",
            f'exec {shlex.join(COMMAND)} "${{runs[$SLURM_ARRAY_TASK_ID]}}" --write-page',
        ]
    )
    path = out / SCRIPT
    write_whole(path, text + "\n")
    return path


@contextmanager
def queued_again_at_time_limit(run: Run) -> Iterator[None]:
    """Let Slurm queue this task of an array again if SIGUSR1, ahead of its time limit, stops it.

    Raises:
        ValueError: if its run has saved no checkpoint, and would not the next time.
    """
    begin = _progress(run)
    try:
        yield
    except Terminated as stop:
        if stop.number == signal.SIGUSR1 and "SLURM_ARRAY_JOB_ID" in os.environ:
            # a training saves before it stops, but an evaluation begins anew
            if _progress(run) == begin:
                raise ValueError(
                    "no progress within the time limit of Slurm, as no checkpoint was saved: give "
                    "more by --sbatch time=D-HH:MM:SS"
                ) from stop
            task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            subprocess.run(["scontrol", "requeue", task])
        raise


def _progress(run: Run) -> tuple[Path, int] | None:
    """Return the last checkpoint of a run and when it was written; None if there is none."""
    last = find_last_checkpoint(run.work_dir)
    return None if last is None else (last, last.stat().st_mtime_ns)


def _quoted(value: str) -> str:
    """Return a value behind its option, in the quotes that Slurm takes where it has spaces."""
    if not value:
        return ""
    return f'="{value}"' if " " in value else f"={value}"


def submit(script: Path) -> str:
    """Submit a script to Slurm.

    Returns:
        line that says what was done.

    Raises:
        ValueError: if Slurm is not there or refuses it.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(
            "there is no sbatch on this machine, and nothing was submitted: on a machine of the "
            f"cluster that sees this folder, run sbatch {script.absolute()}"
        )
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"sbatch refused {script}: {' '.join(done.stderr.split())}")
    job = done.stdout.strip().partition(";")[0]
    write_whole(script.with_name(JOB_ID), job)
    return f"submitted {script} as job {job}; each run that ends writes the page again"


def require_none_queued(out: Path) -> None:
    """Check that the last job that was submitted for a folder has ended.

    Raises:
        ValueError: if it still waits or runs.
    """
    if job := queued_job(out):
        raise ValueError(
            f"runs of {out} wait or run as job {job} of Slurm: give the command again when it has "
            f"ended, or stop it with scancel {job}"
        )


def queued_job(out: Path) -> str | None:
    """Return the last job that was submitted for a folder, None if it has ended.

    Raises:
        ValueError: if Slurm does not answer.
    """
    last = out / JOB_ID
    if not last.is_file() or shutil.which("squeue") is None:
        return None
    job = last.read_text()
    command = ["squeue", "--noheader", f"--jobs={job}"]
    done = subprocess.run(command, capture_output=True, text=True)
    # what it says of a job that it has forgotten
    if done.returncode and "Invalid job id" not in done.stderr:
        raise ValueError(
            f"squeue must say whether job {job} of {out} has ended, but failed "
            f"({' '.join(done.stderr.split())}): give the command again when Slurm answers"
        )
    return job if done.stdout.strip() else None
