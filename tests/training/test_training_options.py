"""The lines of docs/training_options.md do what they say, through the command."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from zipfile import ZipFile

import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation.metrics import IoUMetric
from tiers import few_of
from tool_runs import CONFIG, ENVIRONMENT, REPOSITORY, run, run_warm, train

from hybrid_backbones.training.cfg_options import apply_cfg_options

PAGE = (REPOSITORY / "docs/training_options.md").read_text()
LINES = dict(re.findall(r"^\| ([^|`]+?) \| `(.+=.+)` \|$", PAGE, re.MULTILINE))
SERVICES = {"Weights & Biases": "wandb", "MLflow": "mlflow", "ClearML": "clearml"}
METRICS = {"loss", "accuracy/top1"}
EPOCHS = ["train_cfg.max_epochs=5", "train_cfg.val_interval=1"]
EPOCHS += ["train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=20"]


def options(name):
    return LINES[name].split()


def all_options():
    names = [x for x in LINES if x not in SERVICES and (" of a " not in x or "classifier" in x)]
    given = [one for name in names for one in options(name)]
    given += ["default_hooks.stop.min_delta=200", "default_hooks.stop.patience=1"]
    return [*EPOCHS, *given]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """Train a classifier with all its options but services; no gain is large enough to go on."""
    folder = tmp_path_factory.mktemp("options")
    code, _, err = run_warm(*train(folder, options=all_options()))
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def checkpoint(work_dir):
    return torch.load(work_dir / "epoch_2.pth", weights_only=False)


@pytest.mark.slow
def test_gradients_of_four_steps_are_one_step_of_the_optimizer(checkpoint):
    assert checkpoint["meta"]["iter"] == 8
    steps = {int(state["step"]) for state in checkpoint["optimizer"]["state"].values()}
    assert steps == {2}


@pytest.mark.slow
def test_gradients_are_clipped(work_dir, checkpoint):
    (line,) = options("gradient clipping")
    max_norm = float(line.partition("=")[2])
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    logged = map(json.loads, path.read_text().splitlines())
    assert min(line["grad_norm"] for line in logged if "grad_norm" in line) > 2 * max_norm
    averages = [state["exp_avg"] for state in checkpoint["optimizer"]["state"].values()]
    # Adam's average of two gradients, with the weights 0.1 and 0.09
    norm = torch.stack([x.norm() for x in averages]).norm()
    assert 0.01 * max_norm < norm <= 0.1901 * max_norm


@pytest.mark.slow
def test_averages_are_saved_beside_the_weights(checkpoint):
    average, weights = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    name = "backbone.conv1.weight"
    assert not torch.equal(average[name], weights[f"module.{name}"])


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(work_dir):
    assert len([*work_dir.glob("best_accuracy_top1_epoch_*.pth")]) == 1


@pytest.mark.slow
def test_the_training_stops_without_a_gain(work_dir):
    assert {path.name for path in work_dir.glob("epoch_*.pth")} == {"epoch_1.pth", "epoch_2.pth"}


@pytest.mark.slow
def test_a_training_that_stopped_so_has_finished(work_dir):
    code, out, _ = run_warm(*train(work_dir, "--resume", options=all_options()))
    assert code == 0
    assert re.search(r"already finished: .*epoch_2\.pth was saved at epoch 2, .*stopped early", out)


def test_every_line_is_for_every_kind_of_config():
    assert len(LINES) == 11
    for name in ("maskrcnn_uniformer_s", "upernet_uniformer_s", "imagenet_acmix_r26"):
        for text in LINES.values():
            pairs = dict(one.split("=", 1) for one in text.split())
            pairs = {k: float(v) if re.fullmatch(r"[\d.]+", v) else v for k, v in pairs.items()}
            apply_cfg_options(Config.fromfile(REPOSITORY / f"configs/{name}.py"), pairs)


def test_the_lines_of_a_segmentor_name_what_it_measures():
    metric, labels = IoUMetric(), torch.zeros(1, 4, 4, dtype=torch.long)
    metric.dataset_meta = dict(classes=("soil", "crop"))
    sample = dict(pred_sem_seg=dict(data=labels), gt_sem_seg=dict(data=labels))
    metric.process({}, [sample])
    first, *others = metric.compute_metrics(metric.results)
    assert first == "aAcc"
    values = dict(one.split("=", 1) for x in LINES if "segmentor" in x for one in options(x))
    assert values["default_hooks.checkpoint.save_best"] in others
    assert values["default_hooks.stop.monitor"] in others


@pytest.mark.exhaustive
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_not_installed_is_one_clear_line(service, tmp_path):
    package = SERVICES[service]
    (tmp_path / f"{package}.py").write_text("raise ImportError")
    arguments = train(tmp_path / "work", options=[*EPOCHS, *options(service)])
    code, _, err = run(*arguments, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert (
        f"logs to {package}, which is not installed: run `pip install {package}`"
        in (err.splitlines()[-1])
    )


def read_mlflow(folder):
    """Return the metrics that MLflow keeps."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return {name for (name,) in database.execute("SELECT key FROM metrics")}


def read_wandb(folder):
    """Return the metrics that W&B keeps, of those that are looked for."""
    (path,) = folder.glob("work/*/vis_data/wandb/offline-run-*/*.wandb")
    return {name for name in METRICS if name.encode() in path.read_bytes()}


def read_clearml(folder):
    """Return the metrics that ClearML keeps."""
    (path,) = folder.glob("**/offline-*.zip")
    with ZipFile(path) as file:
        batches = file.read("metrics.jsonl").decode().splitlines()
    return {event["metric"] for batch in batches for event in json.loads(batch)}


@pytest.mark.parametrize(
    ("service", "read"),
    few_of(
        [
            pytest.param("MLflow", read_mlflow, id="MLflow"),
            pytest.param("Weights & Biases", read_wandb, id="Weights & Biases"),
            pytest.param("ClearML", read_clearml, id="ClearML"),
        ],
    ),
)
def test_a_service_keeps_the_metrics_without_an_account(service, read, tmp_path):
    pytest.importorskip(SERVICES[service])
    offline = dict(WANDB_MODE="offline", CLEARML_OFFLINE_MODE="1", HOME=str(tmp_path))
    given = ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=16", *options(service)]
    arguments = train(tmp_path / "work", config=REPOSITORY / CONFIG, options=given)
    ended = subprocess.run(
        [sys.executable, REPOSITORY / arguments[0], *map(str, arguments[1:])],
        cwd=tmp_path,
        env=ENVIRONMENT | offline,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert METRICS.issubset(read(tmp_path))
