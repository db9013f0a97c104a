"""Measure operators, backbones or whole models on this machine; print a table and save it as JSON.

The command is `hb benchmark`, or `tools/benchmark.py`, which has the usage. All but the proof on a
GPU is in `benchmark_tables`, which is imported when it is asked for: the proof must run where
nothing but PyTorch and Triton is installed.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..benchmark.gpu import REHEARSAL, Plan, add_arguments, prove
from ..benchmark.tables import write_whole
from ..ops import triton_support
from ..requirements import require_device, require_writable_file


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    from ..benchmark import command

    return command.make_parser()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with the arguments of the command line unless others are given."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] != ["gpu"]:
        from . import benchmark_tables

        return benchmark_tables.main(arguments)
    parser = argparse.ArgumentParser(f"{Path(sys.argv[0]).name} gpu")
    add_arguments(parser)
    args = parser.parse_args(arguments[1:])
    try:
        return run_proof(args.only, args.out, rehearse=args.rehearse)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped by SIGINT\n")
        return 128 + signal.SIGINT


def run_proof(steps: list[str], out: Path, *, rehearse: bool) -> int:
    """Take the steps of the proof on a GPU; print and save how long each took, and all together.

    Raises:
        ValueError: if there is no GPU, the rehearsal has no interpreter of Triton, or the folder
            cannot be written.
    """
    if rehearse and not triton_support.INTERPRETED:
        raise ValueError(
            "--rehearse runs Triton's kernels in its interpreter: expected TRITON_INTERPRET=1 in "
            "the environment; put it before the command"
        )
    plan = REHEARSAL if rehearse else Plan()
    require_device(plan.device)
    require_writable_file(out / "proof.json")
    taken, failed = {}, 0
    for name, seconds, failures in prove(plan, steps, out):
        print(f"{name}: {seconds:.0f} s, {failures} failed")
        taken[name] = seconds
        failed += failures
    total = sum(taken.values())
    print(f"all: {total:.0f} s, {failed} failed")
    summary = dict(seconds=taken | dict(all=total), failed=failed)
    write_whole(out / "proof.json", json.dumps(summary, indent=2) + "\n")
    return int(failed > 0)
