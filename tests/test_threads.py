"""Laws of the threads of commands: few enough, and soon asleep, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

from hybrid_backbones import threads
from hybrid_backbones.threads import POLICIES

SHOW = """
import os, sys
sys.argv = sys.argv[1:]
import hybrid_backbones
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
print(os.environ.get("OMP_NUM_THREADS"))
"""
# of PyTorch's OpenMP, where a thread spins 300,000 times unless told
SLEEPS = "GOMP_SPINCOUNT = '1000'"


# which takes seconds to import
WITHOUT_PYTORCH = "import sys; sys.modules['torch'] = None"


def run(repository, program, before="", **variables):
    """Import the package in a process that was started as a program; return what it writes."""
    environment = {k: v for k, v in os.environ.items() if k not in POLICIES}
    environment |= dict(PYTHONPATH=str(repository), **variables)
    # relative to the checkout, unless absolute
    program, *arguments = program.split()
    command = [sys.executable, "-c", before + SHOW, repository / program, *arguments]
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("program", "variables", "waiting"),
    [
        ("tools/train.py", {}, "PASSIVE 1000"),
        ("/usr/local/bin/hb", {}, "PASSIVE 1000"),
        ("tools/train.py", dict(OMP_WAIT_POLICY="ACTIVE"), "ACTIVE None"),
        ("tools/train.py", dict(GOMP_SPINCOUNT="10"), "None 10"),
        ("/usr/local/bin/hb train", {}, "PASSIVE 1000"),
        # benchmarks measure what PyTorch does by itself
        ("tools/benchmark.py ops", {}, "None None"),
        ("/usr/local/bin/hb benchmark ops", {}, "None None"),
        # not a command of ours
        ("notebook.py", {}, "None None"),
        ("/elsewhere/tools/train.py", {}, "None None"),
    ],
)
def test_threads_of_commands_wait_passively(repository, program, variables, waiting):
    assert run(repository, program, WITHOUT_PYTORCH, **variables).stdout.splitlines()[0] == waiting


@pytest.mark.parametrize(
    ("quota", "share", "cores"),
    [
        ("max 100000", "", 6),
        ("250000 100000", "", 2),
        ("50000 100000", "", 1),
        ("900000 100000", "4", 4),
        ("250000 100000", "4", 2),
        (None, "3", 3),
    ],
)
def test_cores_are_those_of_the_container_and_of_slurm(monkeypatch, tmp_path, quota, share, cores):
    monkeypatch.setattr(threads, "bound_cores", lambda: 6)
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", share)
    if quota:
        threads.QUOTA.write_text(f"{quota}\n")
    assert threads.usable_cores() == cores


@pytest.mark.skipif(threads.bound_cores() < 2, reason="needs two cores")
@pytest.mark.parametrize(
    ("program", "variables", "number"),
    [
        ("tools/train.py", dict(SLURM_CPUS_PER_TASK="1"), "1"),
        ("tools/train.py", dict(SLURM_CPUS_PER_TASK="1", OMP_NUM_THREADS="2"), "2"),
        ("notebook.py", dict(SLURM_CPUS_PER_TASK="1"), "None"),
    ],
)
def test_commands_start_no_more_threads_than_they_have_cores(
    repository, monkeypatch, program, variables, number
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run(repository, program, WITHOUT_PYTORCH, **variables).stdout.splitlines()[1] == number


@pytest.mark.parametrize(("command", "is_set"), [("train", True), ("benchmark", False)])
def test_the_package_as_a_program_is_a_command(repository, command, is_set):
    environment = {k: v for k, v in os.environ.items() if k not in POLICIES}
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_backbones.cli", command, "--help"],
        env=dict(environment, OMP_DISPLAY_ENV="VERBOSE"),
        cwd=repository,
        text=True,
        capture_output=True,
        check=True,
    )
    assert (SLEEPS in done.stderr) == is_set
    assert "GOMP_SPINCOUNT" in done.stderr


def test_it_is_set_before_pytorch_reads_it(repository):
    # PyTorch's OpenMP then writes what it has read
    done = run(repository, "tools/train.py", OMP_DISPLAY_ENV="VERBOSE")
    assert SLEEPS in done.stderr
