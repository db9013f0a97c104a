"""Configs with small data sets of one's own, and their check by `tools/check_data.py`."""

import json
import shutil

import numpy as np
from PIL import Image
from tool_runs import REPOSITORY, run_warm


def write_boxes(tmp_path, mini_root):
    """Write a config of one's own with twelve pictures of the mini set, six to validate on."""
    for part in ("train", "val"):
        folder = mini_root / f"coco/{part}2017"
        shutil.copytree(folder, tmp_path / part, ignore=lambda _, names: sorted(names)[6:])
        content = json.loads(
            (mini_root / f"coco/annotations/instances_{part}2017.json").read_text()
        )
        names = {path.name for path in (tmp_path / part).iterdir()}
        content["images"] = [one for one in content["images"] if one["file_name"] in names]
        ids = {one["id"] for one in content["images"]}
        content["annotations"] = [x for x in content["annotations"] if x["image_id"] in ids]
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    base = str(REPOSITORY / "configs/own_data_maskrcnn.py")
    (tmp_path / "mine.py").write_text(
        f"_base_ = {base!r}\nown_data = dict(root={str(tmp_path)!r})\n"
    )
    return tmp_path / "mine.py"


def write_maps(tmp_path):
    """Write a config of one's own with three images and label maps, and two to validate on."""
    random = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for kind, ending, size in (("images", "jpg", (64, 64, 3)), ("labels", "png", (64, 64))):
            (tmp_path / kind / part).mkdir(parents=True)
            for i in range(count):
                values = random.integers(0, 256 if kind == "images" else 3, size, np.uint8)
                Image.fromarray(values).save(tmp_path / kind / part / f"{part}{i}.{ending}")
    base = str(REPOSITORY / "configs/own_data_fpn.py")
    (tmp_path / "mine.py").write_text(
        f"_base_ = {base!r}\nown_data = dict(root={str(tmp_path)!r}, classes=list('abc'))\n"
    )
    return tmp_path / "mine.py"


def check(config, *flags):
    out = config.parent / "out"
    if "maskrcnn" in config.read_text():
        flags = (*flags, "--cfg-options", "train_dataloader.dataset.filter_cfg.min_size=1")
    return (*run_warm("tools/check_data.py", config, "--out", out, *flags), out)
