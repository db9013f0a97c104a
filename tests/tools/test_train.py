"""What `tools/train.py` does besides training: a terminal, an old work dir, several processes."""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tool_runs import CONFIG, ENVIRONMENT, ONE_EPOCH, REPOSITORY, run_warm, train


def run_in_terminal(command, until=None):
    """Run in a terminal, with Ctrl-C once `until` is true; return the code and what is shown."""
    terminal, its_end = pty.openpty()
    environment = ENVIRONMENT | dict(TERM="xterm", COLUMNS="160")
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=its_end,
        stderr=its_end,
        cwd=REPOSITORY,
        env=environment,
        # what runs in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(its_end)
    shown = b""
    # reading a terminal whose other end is closed is an error on Linux
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            shown += chunk
            if until and until():
                until = process.send_signal(signal.SIGINT)
    return process.wait(), shown


@pytest.mark.exhaustive
def test_a_terminal_shows_a_live_progress_bar(tmp_path):
    code, shown = run_in_terminal(train(tmp_path, options=ONE_EPOCH))
    assert code == 0, shown.decode()[-2000:]
    assert re.search(rb"training.*100%.*0:00:00.*loss \d.*img/s.*GiB", shown)
    # the log file has plain lines instead
    (log,) = tmp_path.glob("*/*.log")
    assert "img/s" not in log.read_text()
    assert "\x1b[" not in log.read_text()


@pytest.mark.slow
def test_an_interruption_ends_the_bar_and_names_the_last_checkpoint(tmp_path):
    first = tmp_path / "epoch_1.pth"
    code, shown = run_in_terminal(train(tmp_path), until=first.is_file)
    assert code == 130
    assert b"Traceback" not in shown
    last = shown.decode().strip().splitlines()[-1]
    assert re.match(
        rf"stopped by SIGINT: continue from {tmp_path}/epoch_\d\.pth with --resume", last
    )
    # the cursor, which the bar hides, is there again
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def test_a_new_training_puts_the_checkpoints_of_an_earlier_one_aside(tmp_path):
    (tmp_path / "epoch_9.pth").write_bytes(b"precious")
    run_warm(*train(tmp_path, options=["model.backbone.depth=3"]))
    assert (tmp_path / "epoch_9.pth").read_bytes() == b"precious"
    # what fails later cannot start either
    run_warm(*train(tmp_path, options=["optim_wrapper.optimizer.lr=-1"]))
    assert (tmp_path / "epoch_9.pth").read_bytes() == b"precious"
    run_warm(*train(tmp_path, options=["load_from=none.pth"]))
    assert (tmp_path / "epoch_9.pth").read_bytes() == b"precious"
    code, _, err = run_warm(*train(tmp_path, options=ONE_EPOCH))
    assert code == 0, err
    (kept,) = tmp_path.glob("before_*/epoch_9.pth")
    assert kept.read_bytes() == b"precious"


@pytest.mark.exhaustive
def test_two_processes_train_on_the_cpu(tmp_path):
    process = subprocess.run(
        [
            "bash",
            "tools/dist_train.sh",
            CONFIG,
            "2",
            "--mini",
            "--work-dir",
            tmp_path,
            "--cfg-options",
            *ONE_EPOCH,
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=ENVIRONMENT
        | dict(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PORT="29611"),
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "epoch_1.pth").is_file()
