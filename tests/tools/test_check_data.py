"""`tools/check_data.py` reads a whole set, says all that is wrong with it, and draws it."""

import json
import shutil

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
