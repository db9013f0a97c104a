"""`tools/check_data.py` reads a whole set, says all that is wrong with it, and draws it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from check_data_cases import check, write_boxes, write_maps
from inspection_cases import cut
from PIL import Image
from tool_runs import REPOSITORY, run_warm

pytestmark = pytest.mark.upstream


@pytest.fixture
def config(tmp_path, mini_root):
    return write_boxes(tmp_path, mini_root)


@pytest.fixture
def maps(tmp_path):
    return write_maps(tmp_path)


def test_a_good_set_passes_and_is_drawn(config):
    code, text, err, out = check(config)
    assert code == 0, text + err
    lines = text.splitlines()
    assert lines[-1] == "no problems"
    # pycocotools writes lines of its own before
    assert [line.split(",")[0] for line in lines[-4:-2]] == [
        "training: 6 images",
        "validation: 6 images",
    ]
    for name in ("overview.png", "samples.png"):
        with Image.open(out / name) as picture:
            pixels = np.asarray(picture.convert("L"))
            assert min(pixels.shape) > 300
            assert pixels.std() > 10


def test_all_faults_are_reported_in_one_run(config):
    paths = sorted((config.parent / "train").iterdir())
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:99])
    file = config.parent / "train.json"
    content = json.loads(file.read_text())
    last = next(x["id"] for x in content["images"] if x["file_name"] == paths[-1].name)
    good = next(x for x in content["annotations"] if x["image_id"] == last)
    faults = dict(bbox=[-50, 0, 5, 5]), dict(bbox=[5, 5, -2, 5]), dict(category_id=99)
    content["annotations"] += [dict(good, id=10**6 + i) | x for i, x in enumerate(faults)]
    file.write_text(json.dumps(content))
    code, text, err, _ = check(config)
    assert code == 1
    lines = [line.strip() for line in text.splitlines()]
    for kind, example in (
        ("images missing", paths[0].name),
        ("images truncated or not images", paths[1].name),
        ("annotations of unknown categories", "annotation 1000002"),
        ("annotations with a box outside the image, left out", "annotation 1000000"),
        ("annotations with a box of negative size, left out", "annotation 1000001"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{kind}: 1, ")]
        assert example in line
    assert err.splitlines()[-1] == "error: 5 problems, listed above"


def test_what_stops_a_training_for_other_reasons_is_a_problem(config):
    file = config.parent / "train.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(dict(content, annotations=[])))
    code, text, err, _ = check(config)
    assert code == 1
    assert "a training does not begin: 1, annotation file" in text
    assert "no image with an object to train on" in text
    assert err.splitlines()[-1] == "error: 1 problems, listed above"


def rename(path):
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "other"
    path.write_text(json.dumps(content))


UNREADABLE = "annotation files that cannot be read: 1, {folder}/"
# what is done to the files, and what the report must say, besides the image that is missing
FILES = {
    "training file cut": ({"train.json": cut}, [UNREADABLE + "train.json"]),
    "validation file missing": ({"val.json": Path.unlink}, [UNREADABLE + "val.json"]),
    "both files cut": (
        {"train.json": cut, "val.json": cut},
        [UNREADABLE + "train.json", UNREADABLE + "val.json"],
    ),
    "other categories": ({"val.json": rename}, ["own_data: the annotation files have different"]),
}


@pytest.mark.parametrize("name", FILES)
def test_annotation_files_that_a_training_refuses_are_problems_among_others(config, name):
    damage, says = FILES[name]
    for file, change in damage.items():
        change(config.parent / file)
    missing = []
    for part in ("train", "val"):
        image = sorted((config.parent / part).iterdir())[0]
        image.unlink()
        # nothing is known of the images of a file that cannot be read
        if damage.get(f"{part}.json") in (None, rename):
            missing.append(image)
    code, text, err, out = check(config)
    assert code == 1
    for line in (*says, *(f"images missing: 1, {image}" for image in missing)):
        assert text.count(line.format(folder=config.parent)) == 1
    assert err.splitlines()[-1] == f"error: {len(says) + len(missing)} problems, listed above"
    assert (out / "overview.png").exists() == bool(missing)


def test_a_missing_folder_of_images_is_named_once_and_its_annotations_are_inspected(config):
    shutil.rmtree(config.parent / "train")
    file = config.parent / "train.json"
    content = json.loads(file.read_text())
    content["annotations"].append(dict(content["annotations"][0], id=10**6, category_id=99))
    file.write_text(json.dumps(content))
    code, text, err, _ = check(config)
    assert code == 1
    assert text.count(f"own_data: there is no train in {config.parent}: correct") == 1
    assert text.count("images missing: 6, such as") == 1
    assert text.count("annotations of unknown categories: 1, annotation 1000000") == 1
    assert err.splitlines()[-1] == "error: 8 problems, listed above"


def test_without_the_folder_of_all_data_there_is_one_error(config):
    config.write_text(config.read_text() + "own_data['root'] = '/none'\n")
    code, text, err, _ = check(config)
    assert (code, "training:" in text) == (1, False)
    assert "error: own_data.root is /none, which does not exist: set it" in err.splitlines()[-1]


def without_categories(path):
    path.write_text(json.dumps(dict(json.loads(path.read_text()), categories=[])))


def test_sets_without_categories_are_reported_without_pictures(config):
    for part in ("train", "val"):
        without_categories(config.parent / f"{part}.json")
    image = sorted((config.parent / "train").iterdir())[0]
    image.unlink()
    code, text, err, out = check(config)
    assert code == 1
    assert "Traceback" not in err
    assert f"images missing: 1, {image}" in text
    assert "overview.png is not drawn, since no set has both images and classes" in text
    assert not list(out.glob("*"))


def test_no_picture_of_an_earlier_check_stays(config):
    *_, out = check(config)
    assert (out / "samples.png").exists()
    cut(config.parent / "train.json")
    _, text, _, _ = check(config)
    assert "samples.png is not drawn, since no sample of the training set can be made" in text
    assert not (out / "samples.png").exists()
    assert f"look at {out / 'overview.png'}\n" in text


def test_a_config_without_a_validation_set_is_checked_without_one(config):
    (config.parent / "val.json").unlink()
    with config.open("a") as file:
        file.write("val_dataloader = val_cfg = val_evaluator = None\n")
        file.write("test_dataloader = test_cfg = test_evaluator = None\n")
    code, text, err, out = check(config)
    assert code == 0, text + err
    assert "training: 6 images" in text
    assert "validation" not in text
    assert {path.name for path in out.iterdir()} == {"overview.png", "samples.png"}


def test_an_image_of_both_sets_is_a_problem(config):
    shutil.copy(config.parent / "train.json", config.parent / "val.json")
    with config.open("a") as file:
        file.write("own_data['val'] = dict(images='train', annotations='val.json')\n")
    code, text, _, _ = check(config)
    assert code == 1
    assert "images that are in the training set, too: 6, such as" in text


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [("config", "train", "val"), ("maps", "images/train", "images/val")],
    ids=["boxes", "label maps"],
)
def test_a_copy_of_a_training_image_is_a_problem(kind, one, other, request):
    config = request.getfixturevalue(kind)
    original = sorted((config.parent / one).iterdir())[1]
    copy = sorted((config.parent / other).iterdir())[0]
    shutil.copy(original, copy)
    code, text, _, _ = check(config)
    assert code == 1
    assert f"images that are in the training set, too: 1, {copy} (a copy of {original})" in text


@pytest.mark.parametrize("name", ["fpn_uniformer_xxs", "imagenet_acmix_r26", "locformer_swin_t"])
def test_sets_of_every_kind_are_checked(name, tmp_path):
    command = ("tools/check_data.py", f"configs/{name}.py", "--mini", "--out", tmp_path)
    code, text, err = run_warm(*command)
    assert code == 0, text + err
    assert (tmp_path / "samples.png").is_file()
    assert text.splitlines()[-1] == "no problems"


def test_a_set_that_wraps_others_is_a_problem_in_one_line(tmp_path, mini_root):
    (tmp_path / "wrapped.py").write_text(
        f"_base_ = {str(REPOSITORY / 'configs/retinanet_swiftformer_l1.py')!r}\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2,\n"
        "    dataset={{_base_.train_dataloader.dataset}}))\n"
    )
    code, out, err = run_warm(
        *("tools/check_data.py", tmp_path / "wrapped.py", "--out", tmp_path / "out"),
        COCO_ROOT=str(mini_root / "coco"),
    )
    assert code == 1
    assert "RepeatDataset wraps other sets: check each as a dataset of its own" in out + err
    assert "Traceback" not in err
