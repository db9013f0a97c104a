"""LocFormer on real COCO pictures and QuickDraw's drawings, where they are: a few iterations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import few_of

SHARED = Path(__file__).resolve().parents[3] / "shared" / "realdata"
ROOTS = dict(COCO_ROOT="coco", SKETCH_ROOT="sketches")


def shorten():
    """Return the settings that make a run of a few small pictures of it."""
    train = "train_dataloader.dataset.pipeline.5.transforms"
    scales = "[(160,320),(192,320)]"
    options = [
        "model.sketch_encoder.trunk.init_cfg=None",
        "val_dataloader.dataset.pipeline.1.scale=(320,192)",
        # the first of two ways to resize, and the three steps of the second
        *(f"{train}.{place}.scales={scales}" for place in ("0.0", "1.0", "1.2")),
        f"{train}.1.1.crop_size=(96,128)",
        "train_dataloader.batch_size=2",
        "train_cfg.max_epochs=1",
    ]
    for loader in ("train_dataloader", "val_dataloader"):
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        options += [f"{loader}.dataset.indices=4"]
    return options


@pytest.mark.parametrize(
    "name", few_of(["locformer_swin_t", "locformer_swin_t_open_world"], "locformer_swin_t")
)
def test_trains_and_evaluates_on_real_pictures(name, tmp_path, repository):
    roots = {}
    for variable, folder in ROOTS.items():
        roots[variable] = Path(os.environ.get(variable, SHARED / folder))
        if not roots[variable].is_dir():
            pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    process = subprocess.run(
        [
            sys.executable,
            "tools/train.py",
            f"configs/{name}.py",
            "--work-dir",
            str(tmp_path),
            "--cfg-options",
            *shorten(),
        ],
        cwd=repository,
        env=dict(os.environ, OMP_NUM_THREADS="1", **{k: str(v) for k, v in roots.items()}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    assert "bbox_mAP_50" in process.stdout
    assert list(tmp_path.glob("*_1.pth"))
