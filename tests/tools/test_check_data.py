"""`tools/check_data.py` reads a whole set, says all that is wrong with it, and draws it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_runs import REPOSITORY, run_warm

pytestmark = pytest.mark.upstream


@pytest.fixture
def config(tmp_path, mini_root):
    """A config of one's own with twelve pictures of the mini set, half of them to validate on."""
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


@pytest.fixture
def maps(tmp_path):
    """A config of one's own with three images and label maps, and two to validate on."""
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


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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


def test_an_image_of_another_ending_is_a_problem_among_others(maps):
    folder = maps.parent / "images/train"
    shutil.copy(folder / "train0.jpg", folder / "train9.JPG")
    cut(folder / "train1.jpg")
    (maps.parent / "labels/val/val0.png").unlink()
    code, text, err, _ = check(maps)
    assert code == 1
    for line in (
        f"own_data: expected images of one ending in {folder}, such as .jpg or .png, found "
        "3 of .jpg, 1 of .JPG",
        f"images truncated or not images: 1, {folder}/train1.jpg",
        f"label maps missing: 1, {maps.parent}/labels/val/val0.png",
    ):
        assert text.count(line) == 1
    assert err.splitlines()[-1] == "error: 3 problems, listed above"


def test_a_folder_without_images_is_a_problem_among_others(maps):
    shutil.rmtree(maps.parent / "images/train")
    (maps.parent / "images/train").mkdir()
    cut(maps.parent / "labels/val/val0.png")
    code, text, err, _ = check(maps)
    assert code == 1
    assert text.count("sets that cannot be read: 1, no images (*.jpg) in ") == 1
    assert text.count("label maps truncated or not images: 1, ") == 1
    assert err.splitlines()[-1] == "error: 2 problems, listed above"


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


def test_a_set_without_a_folder_for_each_class_is_a_problem(mini_root, tmp_path):
    root = tmp_path / "imagenet"
    shutil.copytree(mini_root / "imagenet", root)
    # as the official archive leaves them
    for folder in sorted((root / "val").iterdir()):
        for path in folder.iterdir():
            path.rename(root / "val" / f"{folder.name}_{path.name}")
        folder.rmdir()
    command = ("tools/check_data.py", "configs/imagenet_acmix_r26.py", "--out", tmp_path / "out")
    code, text, err = run_warm(*command, IMAGENET_ROOT=str(root))
    assert code == 1
    assert "Traceback" not in err
    assert "number of subfolders (0) doesn't match the number of specified classes" in text


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
