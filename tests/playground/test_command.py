"""The command, and the trainings of the mini set: mistakes, progress, stops, and no orphans."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import build_opener, proxy_bypass

import gradio as gr
import pytest
from tiers import few_of
from tool_runs import REPOSITORY, free_port, run_warm

from hybrid_backbones.playground.page import bypass_proxies, serving, training_table
from hybrid_backbones.training import mini_models
from hybrid_backbones.training.mini_models import QUICK, MiniModel, MiniTraining

COMMAND = ("tools/playground.py",)
CONFIG = "configs/imagenet_swiftformer_xs.py"
PATIENCE = 120


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


MISTAKES = {
    "odd": ((CONFIG,), "expected pairs of CONFIG CHECKPOINT, got 1 arguments"),
    "no config": (("none.py", "none.pth"), "no config at none.py"),
    "no checkpoint": ((CONFIG, "none.pth"), "no checkpoint at none.pth: check the path"),
    "long name": ((CONFIG, 256 * "x"), "File name too long: 'xxx"),
    "options": (("--cfg-options", "a=1"), "--cfg-options changes the configs of models that are"),
    "no device": ((CONFIG, "none.pth", "--device", "cuda:77"), "--device cuda:77"),
    "port": ((CONFIG, "none.pth", "--port", "0"), "--port must be from 1 to 65535, got 0"),
}


@pytest.mark.parametrize("name", few_of(MISTAKES, "no config", "port"))
def test_mistakes_end_in_one_line(name):
    arguments, line = MISTAKES[name]
    code, _, err = run_warm(*COMMAND, *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = run_warm(*COMMAND, CONFIG, "none.pth", "--port", port)
    assert code == 1
    assert err.startswith(f"error: --port {port} cannot be used (Address already in use)")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("kept", ["no_proxy", "NO_PROXY"])
def test_the_page_is_served_past_a_proxy_which_others_still_use(monkeypatch, name, kept):
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv(kept, "example.org")
    with gr.Blocks() as page:
        gr.Markdown("some text")
    with serving(page, free_port()) as address:
        # not urlopen, which would keep the proxies for the tests that follow
        assert build_opener().open(address).status == 200
    passed = [host for host in ("127.0.0.1", "example.org", "other.org") if proxy_bypass(host)]
    assert passed == ["127.0.0.1", "example.org"]


@pytest.mark.parametrize("other", ["*", ""])
def test_a_star_for_all_hosts_stays_one(monkeypatch, other):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", other)
    bypass_proxies()
    assert proxy_bypass("other.org")


def test_there_is_no_way_to_share_the_page():
    code, _, err = run_warm(*COMMAND, "--share")
    assert code == 2
    assert "--share" in err


# a training that logs as mmengine does, and leaves a checkpoint, fails, or never ends
FAKE = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for step in (10, 20):
    print(f"Epoch(train) [1][{step}/40]  lr: 1e-3  eta: 0:01:{step}  time: 0.1", flush=True)
if "fails" in folder.name:
    sys.exit("error: the disk is full")
while "endless" in folder.name:
    time.sleep(0.1)
folder.mkdir(parents=True)
(folder / f"epoch_{sys.argv[2]}.pth").touch()
"""


@pytest.fixture
def fake(monkeypatch, tmp_path, mini_root):
    """A function that makes trainings of fakes by their names."""
    monkeypatch.chdir(REPOSITORY)

    def start(model):
        return subprocess.Popen(
            [sys.executable, "-c", FAKE, str(model.work_dir), str(model.length)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    monkeypatch.setattr(mini_models, "start_alone", start)

    def make(*names):
        models = []
        for name in names:
            model = MiniModel("imagenet_swiftformer_xs", tmp_path)
            model.name, model.work_dir = name, tmp_path / name
            models.append(model)
        return MiniTraining(models)

    return make


def test_missing_models_are_trained_one_after_the_other(fake):
    training = fake("first", "fails", "second")
    with pytest.raises(ValueError, match="second is waiting to be trained"):
        training.checkpoint("second")
    training.start()
    with pytest.raises(ValueError, match="the training of fails failed: the disk is full"):
        training.wait()
    assert [state.kind for state in training.states.values()] == ["ready", "failed", "ready"]
    assert training.checkpoint("second").name == "epoch_8.pth"
    with pytest.raises(ValueError, match="fails could not be trained: the disk is full"):
        training.checkpoint("fails")
    assert "the disk is full" in training_table(training)
    # what is trained is kept
    again = fake("first", "second")
    again.start()
    again.wait()
    assert [state.kind for state in again.states.values()] == ["ready", "ready"]


def test_a_training_tells_how_far_it_is_and_can_be_stopped(fake):
    training = fake("endless", "second")
    training.start()
    wait_until(lambda: training.states["endless"].share > 0.05)
    # half of the first of eight epochs
    assert training.states["endless"].share == pytest.approx(20 / 40 / 8)
    assert training.states["endless"].words == "6 %, 0:01:20 left"
    with pytest.raises(ValueError, match="endless is being trained"):
        training.checkpoint("endless")
    training.stop()
    assert not training.is_running
    assert [state.kind for state in training.states.values()] == ["stopped", "stopped"]
    with pytest.raises(ValueError, match="has not been trained to its end"):
        training.checkpoint("endless")


def test_a_stop_while_a_training_starts_ends_it_without_force(fake, monkeypatch):
    start, processes = mini_models.start_alone, []

    def stop_before_it_starts(model):
        stopping.start()
        wait_until(training._stopping.is_set)
        # long enough that the stop has looked for a process
        time.sleep(0.5)
        processes.append(start(model))
        return processes[0]

    monkeypatch.setattr(mini_models, "start_alone", stop_before_it_starts)
    monkeypatch.setattr(mini_models, "PATIENCE", 10)
    training = fake("endless")
    stopping = threading.Thread(target=training.stop)
    training.start()
    training.wait()
    stopping.join()
    assert processes[0].returncode == -signal.SIGTERM
    assert training.states["endless"].kind == "stopped"


def test_a_training_that_ends_while_it_is_stopped_is_no_error(fake, monkeypatch):
    training, process = fake("first"), mini_models.start_alone(fake("endless").models["endless"])
    # a process that is forgotten as soon as it has been looked at
    looks = iter([process])
    forgotten = property(lambda _: next(looks, None))
    monkeypatch.setattr(MiniTraining, "_process", forgotten, raising=False)
    training.stop()
    assert process.wait(PATIENCE) == -signal.SIGTERM


def test_lines_of_both_kinds_of_logs_are_understood():
    lines = {
        "Epoch(train)  [3][10/60]  lr: 2.3e-04  eta: 0:08:53  time: 1.1": ("3", "10", "60"),
        "Iter(train) [ 10/180]  base_lr: 1e-4 lr: 1e-4  eta: 1 day, 0:03:18": (None, "10", "180"),
    }
    for line, groups in lines.items():
        assert mini_models.STEP.search(line).groups()[:3] == groups
    assert mini_models.STEP.search("Epoch(val) [2][10/48]  eta: 0:00:01") is None


def test_the_quick_models_are_of_all_tasks(mini_root, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    models = [MiniModel(name, tmp_path) for name in QUICK]
    assert [model.checkpoint for model in models] == [None] * 4
    assert {model.cfg.default_scope for model in models} == {"mmdet", "mmseg", "mmpretrain"}


def children(parent):
    """Return the processes that a process has started."""
    found = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("name", few_of(["SIGINT", "SIGKILL"]))
def test_a_training_ends_with_the_page_however_that_ends(tmp_path, mini_root, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mini").symlink_to(mini_root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
    # where a page that is killed leaves its folder of uploads
    environment["TMPDIR"] = str(tmp_path)
    page = subprocess.Popen(
        [sys.executable, REPOSITORY / "tools/playground.py", "--port", str(port)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a shell in the background lets its children ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = []
        while "open http" not in "".join(lines):
            lines.append(page.stdout.readline())
            assert lines[-1], lines
        wait_until(lambda: children(page.pid))
        (training,) = children(page.pid)
        # until the training itself has begun, in its work dir
        wait_until(lambda: [*tmp_path.glob("work_dirs/*/*/*.log")])
        page.send_signal(getattr(signal, name))
        page.wait(PATIENCE)
        wait_until(lambda: not is_alive(training))
        if name != "SIGKILL":
            assert page.returncode == 128 + getattr(signal, name)
            assert page.stdout.read().rstrip().endswith(f"stopped by {name}")
    finally:
        page.kill()
