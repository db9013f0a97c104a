"""Real COCO and ADE20K pictures, where they are: a few iterations, the real metrics."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "realdata"
# a network that has learnt nothing finds boxes only without a threshold
ALL_BOXES = dict(
    segm_mAP_50="model.test_cfg.rcnn.score_thr=0.0", bbox_mAP_50="model.test_cfg.score_thr=0.0"
)
RUNS = {
    "maskrcnn_acmix_r26": "segm_mAP_50",
    "maskrcnn_mixformer_b1_3x": "segm_mAP_50",
    "retinanet_swiftformer_l1": "bbox_mAP_50",
    "upernet_acmix_r26": "mIoU",
    "fpn_biformer_s": "mIoU",
}


def shorten(name, metric):
    """Return the settings that make a run of a few small pictures of it."""
    size = "(320,192)"
    options = [
        f"val_dataloader.dataset.pipeline.1.scale={size}",
        "train_dataloader.batch_size=1",
        "auto_scale_lr.enable=False",
    ]
    for loader in ("train_dataloader", "val_dataloader"):
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        options += [f"{loader}.dataset.indices=4"]
    train = "train_dataloader.dataset.pipeline"
    if metric == "mIoU":
        options += ["train_cfg.max_iters=4", "train_cfg.val_interval=4"]
        options += ["train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=4"]
        return [*options, f"{train}.4.crop_size=(128,128)"]
    options += ["train_cfg.max_epochs=1", ALL_BOXES[metric]]
    if not name.endswith("_3x"):
        return [*options, f"{train}.3.scale={size}"]
    # the first of two ways to resize, and the three steps of the second
    scales = "[(160,320),(192,320)]"
    options += [f"{train}.4.transforms.{place}.scales={scales}" for place in ("0.0", "1.0", "1.2")]
    return [*options, f"{train}.4.transforms.1.1.crop_size=(96,128)"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_trains_and_evaluates_on_real_pictures(name, tmp_path, repository):
    metric = RUNS[name]
    variable, folder = ("ADE_ROOT", "ade") if metric == "mIoU" else ("COCO_ROOT", "coco")
    root = Path(os.environ.get(variable, SHARED / folder))
    if not root.is_dir():
        pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    process = subprocess.run(
        [
            sys.executable,
            "tools/train.py",
            f"configs/{name}.py",
            "--work-dir",
            str(tmp_path),
            "--cfg-options",
            *shorten(name, metric),
        ],
        cwd=repository,
        env=dict(os.environ, OMP_NUM_THREADS="1", **{variable: str(root)}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    assert metric in process.stdout
    assert list(tmp_path.glob("*_[14].pth"))
