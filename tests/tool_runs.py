"""Shared by the tests of the commands: how a user would run them, and what a run leaves."""

import atexit
import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# the smallest network and a schedule of seconds; everything else is the user's path
CONFIG = "configs/imagenet_acmix_r26.py"
SHORT = ["train_cfg.max_epochs=3", "train_cfg.val_interval=1"]
SHORT += ["train_dataloader.dataset.indices=96"]
ONE_EPOCH = ["train_cfg.max_epochs=1", *SHORT[2:]]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1")


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=ENVIRONMENT | environment,
    )


def run(*arguments, **environment):
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@cache
def _server():
    server = subprocess.Popen(
        [sys.executable, REPOSITORY / "tests/tool_server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        env=ENVIRONMENT,
    )
    atexit.register(server.stdin.close)
    return server


def start_warm(*commands):
    """Start command lines, each with its environment, in forks of one process, all at once.

    They start in the folder that `PWD` names, by default that of the repository.

    Returns:
        their process numbers, and a function that waits for all and returns what `run` does for
        each. Nothing else can be started before that.
    """
    server = _server()
    server.stdin.write(json.dumps([[[*map(str, line)], env] for line, env in commands]) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline()), lambda: json.loads(server.stdout.readline())


def run_warm(*arguments, **environment):
    """Run as `run` does, but in a process that need not import the slow packages."""
    _, wait = start_warm((arguments, environment))
    (result,) = wait()
    return result


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def ranks(command, number=2, **environment):
    """Return what starts a command as a launcher does, once for each of its processes."""
    master = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE=str(number))
    places = [dict(RANK=rank, LOCAL_RANK=rank) for rank in map(str, range(number))]
    command = [*command, "--launcher", "pytorch"]
    return [(command, master | place | environment) for place in places]


def train(work_dir, *flags, config=CONFIG, options=SHORT):
    return (
        *("tools/train.py", config, "--mini", "--work-dir", work_dir, *flags),
        *(("--cfg-options", *options) if options else ()),
    )


def evaluate(work_dir, checkpoint, *flags, config=CONFIG):
    return ("tools/test.py", config, checkpoint, "--mini", "--work-dir", work_dir, *flags)


def metrics(work_dir):
    """Read the validation metrics that were logged, in order."""
    lines = []
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return [line["accuracy/top1"] for line in lines if "accuracy/top1" in line]


def metric_on_file(work_dir):
    """Read the metric that a test left."""
    (path,) = Path(work_dir).glob("*/*_*.json")
    return json.loads(path.read_text())["accuracy/top1"]
