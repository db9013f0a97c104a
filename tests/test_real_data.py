"""Real COCO and ADE20K pictures, where they are: a few iterations, the real metrics."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "realdata"
# a network that has learnt nothing finds boxes only without a threshold
RUNS = {
    "maskrcnn_acmix_r26": (
        *("COCO_ROOT", "coco", "segm_mAP_50"),
        ["model.test_cfg.rcnn.score_thr=0.0"],
    ),
    "retinanet_acmix_r26": (
        *("COCO_ROOT", "coco", "bbox_mAP_50"),
        ["model.test_cfg.score_thr=0.0"],
    ),
    "upernet_acmix_r26": ("ADE_ROOT", "ade", "mIoU", []),
}


@pytest.mark.parametrize("name", RUNS)
def test_trains_and_evaluates_on_real_pictures(name, tmp_path, repository):
    variable, folder, metric, options = RUNS[name]
    root = Path(os.environ.get(variable, SHARED / folder))
    if not root.is_dir():
        pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    size = "(320,192)"
    options = [
        *options,
        f"val_dataloader.dataset.pipeline.1.scale={size}",
        "train_dataloader.batch_size=1",
    ]
    for loader in ("train_dataloader", "val_dataloader"):
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        options += [f"{loader}.dataset.indices=4"]
    if folder == "coco":
        options += [f"train_dataloader.dataset.pipeline.3.scale={size}", "train_cfg.max_epochs=1"]
    else:
        options += ["train_cfg.max_iters=4", "train_cfg.val_interval=4"]
        options += ["train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=4"]
        options += ["train_dataloader.dataset.pipeline.4.crop_size=(128,128)"]
    process = subprocess.run(
        [
            sys.executable,
            "tools/train.py",
            f"configs/{name}.py",
            "--work-dir",
            str(tmp_path),
            "--cfg-options",
            *options,
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
