"""Run commands for the tests, each in a fork of one process that has imported the slow packages.

Reads command lines with their environments as JSON from each line of its standard input, and runs
those of a line at once. Answers with their process numbers, and when all have ended, with their
exit codes and what they wrote, as JSON. A command sees a process of its own in every other way.
Start it with :func:`tool_runs.start_warm`.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from contextlib import ExitStack

HOSTS = ("mmdet", "mmseg", "mmpretrain")
PARTS = ("models", "datasets", "evaluation", "engine", "visualization")
TIMEOUT = 600


def run_here(arguments):
    """Run a command in this process, and return its exit code."""
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
            return 1
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def fork(arguments, environment, out, err):
    """Run a command in a fork, and return its process number."""
    if child := os.fork():
        return child
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    signal.alarm(TIMEOUT)
    os.environ.update(environment)
    os.chdir(environment.get("PWD", "."))
    code = run_here(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    # taking down the interpreter would take longer than most commands
    os._exit(code)


def read(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def main():
    # the packages print at import: only answers go to the standard output
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    importlib.import_module("hybrid_backbones.training.launch")
    for host in HOSTS:
        for part in PARTS:
            importlib.import_module(f"{host}.{part}")
    # what a collection of garbage touches, a fork has to copy
    gc.freeze()
    for line in sys.stdin:
        commands = json.loads(line)
        with ExitStack() as stack:
            files = [
                [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)] for _ in commands
            ]
            runs = zip(commands, files, strict=True)
            children = [fork(*command, *pair) for command, pair in runs]
            answers.write(json.dumps(children) + "\n")
            answers.flush()
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            results = [[code, *map(read, pair)] for code, pair in zip(codes, files, strict=True)]
        answers.write(json.dumps(results) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
