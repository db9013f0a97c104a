"""Real COCO and ADE20K pictures, where they are: a few iterations, the real metrics."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_models import build_model, publish, randomise
from tiers import few_of
from tool_runs import REPOSITORY, run_warm

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "realdata"
# a network that has learnt nothing finds boxes only without a threshold
ALL_BOXES = dict(
    segm_mAP_50="model.test_cfg.rcnn.score_thr=0.0", bbox_mAP_50="model.test_cfg.score_thr=0.0"
)
CHOSEN = ("person", "chair", "car")
RUNS = {
    "maskrcnn_acmix_r26": "segm_mAP_50",
    "maskrcnn_mixformer_b1_3x": "segm_mAP_50",
    "retinanet_swiftformer_l1": "bbox_mAP_50",
    "upernet_acmix_r26": "mIoU",
    "fpn_biformer_s": "mIoU",
}
# one of each kind of pictures; masks are in the runs on own data below
EACH = few_of(RUNS, "retinanet_swiftformer_l1", "fpn_biformer_s")


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
        size = "(128,128)"
        options.append(f"model.data_preprocessor.size={size}")
        return [*options, f"{train}.4.crop_size={size}"]
    options += ["train_cfg.max_epochs=1", ALL_BOXES[metric]]
    if not name.endswith("_3x"):
        return [*options, f"{train}.3.scale={size}"]
    # the first of two ways to resize, and the three steps of the second
    scales = "[(160,320),(192,320)]"
    options += [f"{train}.4.transforms.{place}.scales={scales}" for place in ("0.0", "1.0", "1.2")]
    return [*options, f"{train}.4.transforms.1.1.crop_size=(96,128)"]


def real(variable, folder):
    """Return the folder of real pictures, or skip the test."""
    root = Path(os.environ.get(variable, SHARED / folder))
    if not root.is_dir():
        pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    return root.resolve()


@pytest.mark.parametrize("name", EACH)
def test_trains_and_evaluates_on_real_pictures(name, tmp_path):
    metric = RUNS[name]
    variable, folder = ("ADE_ROOT", "ade") if metric == "mIoU" else ("COCO_ROOT", "coco")
    root = real(variable, folder)
    code, out, err = run_warm(
        *("tools/train.py", f"configs/{name}.py", "--work-dir", tmp_path),
        *("--cfg-options", *shorten(name, metric)),
        **{variable: str(root)},
    )
    assert code == 0, err
    assert metric in out
    assert list(tmp_path.glob("*_[14].pth"))


def cut_coco(root, part, out):
    """Write the annotations of some pictures and three categories, whose ids have gaps."""
    content = json.loads((root / f"annotations/instances_{part}2017.json").read_text())
    content["categories"] = [x for x in content["categories"] if x["name"] in CHOSEN]
    ids = {x["id"] for x in content["categories"]}
    annotations = [x for x in content["annotations"] if x["category_id"] in ids]
    pictures = list(dict.fromkeys(x["image_id"] for x in annotations))[:4]
    content["annotations"] = [x for x in annotations if x["image_id"] in pictures]
    content["images"] = [x for x in content["images"] if x["id"] in pictures]
    out.write_text(json.dumps(content))


def cut_ade(root, part, out):
    """Copy some pictures and label maps of three classes; all others are ignored."""
    for kind in ("images", "labels"):
        (out / kind / part).mkdir(parents=True)
    folder = dict(train="training", val="validation")[part]
    classes = np.full(256, 255, np.uint8)
    # wall, building and sky
    classes[1:4] = 0, 1, 2
    for path in sorted((root / "images" / folder).glob("*.jpg"))[:3]:
        shutil.copy(path, out / "images" / part)
        labels = np.asarray(Image.open(root / "annotations" / folder / f"{path.stem}.png"))
        Image.fromarray(classes[labels]).save(out / "labels" / part / f"{path.stem}.png")


def cut_objects(root, part, out):
    """Write boxes of objects of three classes, those of a class into a folder."""
    content = json.loads((root / f"annotations/instances_{part}2017.json").read_text())
    files = {x["id"]: x["file_name"] for x in content["images"]}
    for category in content["categories"]:
        if category["name"] in CHOSEN:
            (out / part / category["name"]).mkdir(parents=True)
            boxes = [x for x in content["annotations"] if x["category_id"] == category["id"]]
            for x in sorted(boxes, key=lambda x: -x["area"])[:4]:
                left, top, width, height = x["bbox"]
                picture = Image.open(root / f"{part}2017" / files[x["image_id"]]).convert("RGB")
                picture = picture.crop((left, top, left + width, top + height))
                picture.save(out / part / category["name"] / f"{x['id']}.jpg")


def run_own(tmp_path, kind, base, text, options):
    """Check and train a config of one's own, from a stand-in for the published model."""
    torch.save(publish(randomise(build_model(base))), tmp_path / "published.pth")
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = {str(REPOSITORY / f'configs/own_data_{kind}.py')!r}\n{text}")
    pictures = ("--out", tmp_path / "checked")
    code, out, err = run_warm("tools/check_data.py", config, *pictures)
    assert code == 0, out + err
    assert {path.name for path in (tmp_path / "checked").iterdir()} == {
        "overview.png",
        "samples.png",
    }
    work_dir = tmp_path / "work"
    code, out, err = run_warm(
        *("tools/train.py", config, "--fresh-head", "--work-dir", work_dir),
        *("--cfg-options", f"load_from={tmp_path}/published.pth", *options),
    )
    assert code == 0, err
    return work_dir, out


@pytest.mark.slow
def test_a_published_detector_is_fine_tuned_on_three_classes_of_real_pictures(tmp_path):
    root = real("COCO_ROOT", "coco")
    for part in ("train", "val"):
        cut_coco(root, part, tmp_path / f"{part}.json")
    text = (
        f"own_data = dict(root={str(tmp_path)!r})\n"
        f"own_data['train'] = dict(images={str(root / 'train2017')!r}, annotations='train.json')\n"
        f"own_data['val'] = dict(images={str(root / 'val2017')!r}, annotations='val.json')\n"
    )
    options = shorten("maskrcnn_uniformer_s", "segm_mAP_50")
    options.remove("auto_scale_lr.enable=False")
    work_dir, out = run_own(tmp_path, "maskrcnn", "maskrcnn_uniformer_s", text, options)
    assert "segm_mAP_50" in out
    assert "6 left fresh (roi_head.bbox_head.fc_cls.bias" in out
    weights = torch.load(work_dir / "epoch_1.pth", weights_only=False)["state_dict"]
    assert weights["roi_head.bbox_head.fc_cls.weight"].shape[0] == 3 + 1
    # to predict, the config of the work dir is enough
    for part in ("train", "val"):
        (tmp_path / f"{part}.json").unlink()
    picture = next((root / "val2017").glob("*.jpg"))
    drawn = ("--out", tmp_path / "drawn.png", "--score-thr", "0")
    code, _, err = run_warm(
        *("tools/image_demo.py", picture, work_dir / "mine.py", work_dir / "epoch_1.pth", *drawn),
        *("--cfg-options", "test_pipeline.1.scale=(320,192)"),
    )
    assert code == 0, err
    assert (tmp_path / "drawn.png").is_file()


@pytest.mark.slow
def test_a_published_segmentor_is_fine_tuned_on_three_classes_of_real_pictures(tmp_path):
    root = real("ADE_ROOT", "ade")
    for part in ("train", "val"):
        cut_ade(root, part, tmp_path)
    text = f"own_data = dict(root={str(tmp_path)!r}, classes=['wall', 'building', 'sky'])\n"
    options = [x for x in shorten("fpn_uniformer_s", "mIoU") if "auto_scale" not in x]
    work_dir, out = run_own(tmp_path, "fpn", "fpn_uniformer_s", text, options)
    assert "mIoU" in out
    assert "2 left fresh (decode_head.conv_seg.bias" in out
    weights = torch.load(work_dir / "iter_4.pth", weights_only=False)["state_dict"]
    assert weights["decode_head.conv_seg.weight"].shape[0] == 3


@pytest.mark.slow
def test_a_published_classifier_is_fine_tuned_on_folders_of_real_objects(tmp_path):
    root = real("COCO_ROOT", "coco")
    for part in ("train", "val"):
        cut_objects(root, part, tmp_path)
    options = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=4"]
    for loader in ("train_dataloader", "val_dataloader"):
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
    text = f"own_data = dict(root={str(tmp_path)!r})\n"
    work_dir, out = run_own(tmp_path, "classifier", "imagenet_uniformer_s", text, options)
    assert "accuracy/top1" in out
    assert "accuracy/top5" not in out
    assert "2 left fresh (head.fc.bias" in out
    weights = torch.load(work_dir / "epoch_1.pth", weights_only=False)["state_dict"]
    assert weights["head.fc.weight"].shape[0] == 3
    tested = ("tools/test.py", tmp_path / "mine.py", work_dir / "epoch_1.pth")
    code, out, err = run_warm(*tested, "--work-dir", tmp_path / "tested")
    assert code == 0, err
    assert "accuracy/top1" in out
    # to predict, the config of the work dir is enough
    picture = next((tmp_path / "val").rglob("*.jpg")).rename(tmp_path / "picture.jpg")
    shutil.rmtree(tmp_path / "train")
    code, _, err = run_warm(
        *("tools/image_demo.py", picture, work_dir / "mine.py", work_dir / "epoch_1.pth"),
        *("--out", tmp_path / "drawn.png"),
    )
    assert code == 0, err
    assert (tmp_path / "drawn.png").is_file()
