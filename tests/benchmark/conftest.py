"""Runs of a leaderboard without any training, and fake programs, for several files."""

import pytest

from hybrid_backbones.benchmark.runs import Run
from hybrid_backbones.benchmark.zoo import published_of

RESULT = dict(
    metrics={"coco/bbox_mAP": 0.4, "coco/bbox_mAP_50": 0.6, "coco/segm_mAP": 0.3},
    **dict(checkpoint="train/epoch_4.pth", weights="ab" * 32, params=40e6, macs=250e9),
    **dict(train_images_per_s=2.0, train_memory_mib=900.0, latency_ms=50.0),
    **dict(processes=1, device="a machine", threads=1, date="2026-11-26", notes=[]),
)


@pytest.fixture
def make(tmp_path, repository):
    """A function that makes runs by the names of their configs."""

    def make_run(name, seed=0, result=None, **others):
        settings = dict(
            folder=tmp_path / f"{name}_{seed}",
            config=repository / f"configs/{name}.py",
            scope="mmdet",
            mini=True,
            seed=seed,
            digest="12" * 32,
            size=(128, 128),
            flags=dict(pretrained=False),
            images=1000,
        )
        if settings["config"].is_file():
            settings["published"] = published_of(settings["config"])
        run = Run(**settings | others)
        run.save()
        if result is not None:
            run.finish(RESULT | result)
        return run

    return make_run


@pytest.fixture
def install(tmp_path):
    """A function that writes shell scripts as programs into the folder ``bin``."""

    def write(**programs):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)

    return write
