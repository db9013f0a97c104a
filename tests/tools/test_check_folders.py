"""`tools/check_data.py` reads label maps and folders by class as it reads annotations of boxes."""

import os
import shutil

import pytest
from check_data_cases import check, write_maps
from inspection_cases import cut
from PIL import Image
from tool_runs import REPOSITORY, run_warm

pytestmark = pytest.mark.upstream


@pytest.fixture
def maps(tmp_path):
    return write_maps(tmp_path)


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


def test_folders_whose_names_are_no_text_are_reported_and_drawn(tmp_path):
    # as a Latin-1 system names them
    names = [os.fsdecode(b"caf\xe9"), os.fsdecode(b"th\xe9"), "lait"]
    for part in ("train", "val"):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
        # the last class has no image
        for i, name in enumerate(names[1:]):
            value = 100 * i + 10 * (part == "val")
            Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / part / name / "a.png")
    base = str(REPOSITORY / "configs/own_data_classifier.py")
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = {base!r}\nown_data = dict(root={str(tmp_path)!r})\n")
    code, text, err, out = check(config)
    assert code == 0, text + err
    assert r"training: 2 images, 3 classes; none of caf\udce9" in text
    assert "cannot be drawn" not in text
    assert {path.name for path in out.iterdir()} == {"overview.png", "samples.png"}
