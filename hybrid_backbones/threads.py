"""Threads of OpenMP: how many there are and how they wait, which is set before PyTorch starts them.

By default there is one for each core of the machine, also where a container or Slurm grants fewer,
and a thread that waits for others keeps its core busy for some milliseconds. Two jobs that share
the cores then wait for each other's waiting threads.
"""

import os
import sys
from pathlib import Path

# of ours; in a checkout a link to its tools
TOOLS = Path(__file__).resolve().parent / ".mim/tools"
# how many threads the user asks for
THREADS_OF_USER = os.environ.get("OMP_NUM_THREADS")
# what Linux grants a container: microseconds of all cores together, or "max", in how many
QUOTA = Path("/sys/fs/cgroup/cpu.max")
# set by users who decide themselves
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's OpenMP then first asks so many times, which takes some microseconds: threads that sleep at
# once wake up late for most operations, and with its usual 300,000 times jobs starve each other
PASSIVE = dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")


def usable_cores() -> int:
    """Return how many cores this process may use at a time, where the operating system says it.

    It is the least of its affinity, the quota of its container and what Slurm grants its task.
    """
    limits = [bound_cores()]
    if QUOTA.is_file():
        quota, period = QUOTA.read_text().split()
        limits += [int(quota) // int(period)] if quota != "max" else []
    share = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits += [int(share)] if share.isdecimal() else []
    return max(1, min(limits))


def bound_cores() -> int:
    """Return the number of cores of this process's affinity, which OpenMP starts threads for."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads_in_commands() -> None:
    """Let waiting threads soon sleep, and start no more than cores, in a command of ours.

    Those are `hb`, ``python -m hybrid_backbones.cli`` and the files of our tools.

    It must precede the first import of PyTorch. Environment variables that say how many threads
    there are or how they wait keep their values. Benchmarks, which need a machine for themselves,
    leave PyTorch as it is.
    """
    program = Path(sys.argv[0])
    # while a package is imported for `-m`, its program has no name yet
    is_module = sys.orig_argv[1:3] == ["-m", "hybrid_backbones.cli"]
    is_command = is_module or program.stem == "hb" or program.resolve().parent == TOOLS.resolve()
    is_benchmark = "benchmark" in (program.stem, *sys.argv[1:2])
    if not is_command or is_benchmark:
        return
    if not any(name in os.environ for name in POLICIES):
        os.environ.update(PASSIVE)
    if THREADS_OF_USER is None and (cores := usable_cores()) < bound_cores():
        os.environ["OMP_NUM_THREADS"] = str(cores)
