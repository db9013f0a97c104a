"""Models trained on the embedded mini set: where they are, and training of those that are missing.

A training is the tools' own, in a process of its own that ends with this one. It can be stopped at
any time and goes on from its last checkpoint the next time.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoints import guard_loads
from ..config_files import CONFIGS
from ..mini.preset import apply_mini
from . import launch
from .errors import one_line_errors
from .saving import find_last_checkpoint, number_of

# a classifier, a segmentor, a detector by sketch and one with routes, the quickest first
QUICK = ("imagenet_swiftformer_xs", "fpn_uniformer_xxs", "locformer_swin_t", "maskrcnn_biformer_s")
# a line of the log: epoch, step and steps of an epoch, or step and all steps; and what is left
STEP = re.compile(
    r"(?:Epoch\(train\)\s+\[(\d+)\]|Iter\(train\)\s*)\s*\[\s*(\d+)/(\d+)\].*?eta: (\S+)"
)
# lines of a training that are kept to explain its failure, and seconds until one has to stop
MAX_LINES, PATIENCE = 20, 20


def find_finished(work_dir: Path, cfg: Config) -> Path | None:
    """Return the checkpoint at the end of a training; None if it has not finished."""
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    last = find_last_checkpoint(work_dir)
    return last if last and number_of(last) == length else None


class MiniModel:
    """A config and its checkpoint, trained on the mini set.

    Args:
        name: name of a config, such as ``maskrcnn_biformer_s``.
        work_dirs: folder of the work dirs.
    """

    def __init__(self, name: str, work_dirs: str | Path = "work_dirs"):
        self.name, self.path = name, CONFIGS / f"{name}.py"
        self.work_dir = Path(work_dirs) / f"{name}_mini"
        self.cfg = Config.fromfile(self.path)
        apply_mini(self.cfg)
        train = self.cfg.train_cfg
        # epochs, or iterations
        self.length: int = train.get("max_epochs") or train.max_iters
        self.counts_epochs = "max_epochs" in train

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint of the finished training; None if it has not finished."""
        return find_finished(self.work_dir, self.cfg)


@dataclass
class State:
    """How far a training is: ready, waiting, training, stopped or failed; share done, and words."""

    kind: str
    share: float = 0.0
    words: str = ""


class MiniTraining:
    """Trainings of the missing ones of some models, one after the other.

    Args:
        models: models in the order in which they are trained.
        log: function that receives each line of the trainings.
    """

    def __init__(self, models: Iterable[MiniModel], log: Callable[[str], None] | None = None):
        self.models = {model.name: model for model in models}
        self.states = {
            name: State("ready", 1.0) if model.checkpoint else State("waiting")
            for name, model in self.models.items()
        }
        self._log = log
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether a training runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Train the missing models in the background, stopped and failed ones again."""
        with self._changing:
            if self.is_running:
                return
            self._stopping.clear()
            for name, state in self.states.items():
                if state.kind in ("stopped", "failed"):
                    self.states[name] = State("waiting", state.share)
            self._thread = threading.Thread(target=self._train_all, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the end of the trainings.

        Raises:
            ValueError: if one of them has failed.
        """
        if self._thread is not None:
            self._thread.join()
        for name, state in self.states.items():
            if state.kind == "failed":
                raise ValueError(f"the training of {name} failed: {state.words}")

    def stop(self) -> None:
        """Stop the training that runs, and start no further one; it goes on from there later."""
        with self._changing:
            self._stopping.set()
            # the process may end, and be forgotten, at any time
            if (process := self._process) is not None:
                process.terminate()
            if self._thread is not None:
                self._thread.join(PATIENCE)
            if (process := self._process) is not None:
                process.kill()
                process.wait()

    def checkpoint(self, name: str) -> Path:
        """Return the checkpoint of a model.

        Raises:
            ValueError: if it is not trained yet; the message says how far it is.
        """
        checkpoint, state = self.models[name].checkpoint, self.states[name]
        if checkpoint is not None and state.kind != "training":
            return checkpoint
        so_far = {
            "training": f"is being trained ({state.words}): try again then",
            "waiting": "is waiting to be trained: try again later, or choose another model",
            "failed": f"could not be trained: {state.words}",
        }
        stopped = "has not been trained to its end: start its training again"
        raise ValueError(f"{name} {so_far.get(state.kind, stopped)}")

    def _train_all(self) -> None:
        for name, model in self.models.items():
            if self._stopping.is_set():
                break
            if model.checkpoint:
                self.states[name] = State("ready", 1.0)
            else:
                self._train(name, model)
        for name, state in self.states.items():
            if state.kind == "waiting":
                self.states[name] = State("stopped", state.share)

    def _train(self, name: str, model: MiniModel) -> None:
        self.states[name] = State("training", 0.0, "starting")
        print_log(f"training {name} on the mini set, in {model.work_dir}", logger="current")
        lines: deque[str] = deque(maxlen=MAX_LINES)
        self._process = process = start_alone(model)
        # a stop in the meantime has found no process
        if self._stopping.is_set():
            process.terminate()
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if self._log:
                self._log(line.rstrip())
            if step := STEP.search(line):
                share = _share(step, model)
                words = f"{100 * share:.0f} %, {step[4]} left"
                self.states[name] = State("training", share, words)
        code = process.wait()
        self._process = None
        share = self.states[name].share
        if code == 0 and model.checkpoint:
            self.states[name] = State("ready", 1.0)
        elif self._stopping.is_set():
            self.states[name] = State("stopped", share, f"{100 * share:.0f} %")
        else:
            errors = [line for line in lines if line.startswith(("error: ", "stopped by "))]
            words = errors[-1].removeprefix("error: ") if errors else f"exit code {code}"
            self.states[name] = State("failed", share, words)


def _share(step: re.Match, model: MiniModel) -> float:
    """Return the share of a training that a line of its log is at."""
    done = int(step[2]) / int(step[3])
    return (int(step[1]) - 1 + done) / model.length if step[1] else done


def start_alone(model: MiniModel) -> subprocess.Popen:
    """Start the training of a model in a process that ends when this one does, however it ends."""
    code = f"from {__name__} import train_alone; train_alone()"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(model.path), str(model.work_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Ctrl-C is for this process, which stops the other one
        start_new_session=True,
    )


def train_alone() -> None:
    """Train the config, in the work dir, of the command line; stop when the standard input ends."""
    config, work_dir = sys.argv[1:]
    # the page that waits for it comes first
    os.nice(5)
    threading.Thread(target=end_with_input, daemon=True).start()
    args = Namespace(
        config=config,
        work_dir=work_dir,
        mini=True,
        cfg_options=None,
        resume="auto" if find_last_checkpoint(work_dir) else None,
        pretrained=False,
        fresh_head=None,
        amp=None,
        batch_size=None,
        auto_scale_lr=False,
        compile=False,
        launcher="none",
        local_rank=0,
    )
    with one_line_errors(), guard_loads(run_code=False):
        launch.train(args)


def end_with_input() -> None:
    """Wait for the end of the standard input, which the parent process holds, and stop this one."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
