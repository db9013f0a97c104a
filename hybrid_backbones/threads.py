"""Threads of OpenMP, which are told how to wait before PyTorch starts them.

By default a thread that waits for others keeps its core busy for some milliseconds. Two jobs that
share the cores then wait for each other's waiting threads.
"""

import os
import sys
from pathlib import Path

# of ours; in a checkout a link to its tools
TOOLS = Path(__file__).resolve().parent / ".mim/tools"
# set by users who decide themselves
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's OpenMP then first asks so many times, which takes some microseconds: threads that sleep at
# once wake up late for most operations, and with its usual 300,000 times jobs starve each other
PASSIVE = dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")


def wait_passively_in_commands() -> None:
    """Let waiting threads soon sleep if this process is a command of ours.

    Those are `hb`, ``python -m hybrid_backbones.cli`` and the files of our tools.

    It must precede the first import of PyTorch. Environment variables that say how threads wait
    keep their values. Benchmarks, which need a machine for themselves, leave PyTorch as it is.
    """
    program = Path(sys.argv[0])
    # while a package is imported for `-m`, its program has no name yet
    is_module = sys.orig_argv[1:3] == ["-m", "hybrid_backbones.cli"]
    is_command = is_module or program.stem == "hb" or program.resolve().parent == TOOLS.resolve()
    is_benchmark = "benchmark" in (program.stem, *sys.argv[1:2])
    if is_command and not is_benchmark and not any(name in os.environ for name in POLICIES):
        os.environ.update(PASSIVE)
