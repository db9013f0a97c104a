"""Laws of drawn predictions: the right names and colours, on pictures of any proportion."""

import numpy as np
import pytest
import torch
from demo_cases import (
    KINDS,
    every_form,
    every_kind,
    in_form,
    noise,
    read,
    sample_of,
    visualizer_of,
)
from matplotlib.text import Text
from PIL import Image

from hybrid_backbones.inference.demo import draw, read_dataset_meta
from hybrid_backbones.inference.pictures import ENDINGS, MAX_SIDE, picture_size, resize, write
from hybrid_backbones.mini.preset import apply_mini


@pytest.fixture
def drawn_texts(monkeypatch):
    """What matplotlib draws as letters, not as a formula."""
    texts, preprocess = [], Text._preprocess_math

    def watch(self, text):
        letters, is_math = preprocess(self, text)
        texts.extend([] if is_math else [letters])
        return letters, is_math

    monkeypatch.setattr(Text, "_preprocess_math", watch)
    return texts


@every_kind
@pytest.mark.parametrize(
    "content",
    [{}, dict(meta=None), dict(meta={}), dict(meta=dict(dataset_meta=None)), dict(meta="text")],
    ids=str,
)
def test_a_checkpoint_that_names_no_classes_gets_those_of_the_data_set(
    repository, tmp_path, kind, content
):
    found = visualizer_of(read(repository, kind), tmp_path, **content).dataset_meta
    expected = KINDS[kind].METAINFO
    assert found["classes"] == list(expected["classes"])
    assert len(found["palette"]) == len(found["classes"])
    if "palette" in expected:
        assert [list(color) for color in found["palette"]] == list(map(list, expected["palette"]))


@every_form
def test_names_come_from_the_data_set_in_whatever_form(repository, tmp_path, wrapper, form):
    kind = "fpn_uniformer_xxs"
    found = visualizer_of(in_form(read(repository, kind), wrapper, form), tmp_path).dataset_meta
    assert found["classes"] == list(KINDS[kind].METAINFO["classes"])


def test_names_that_are_nowhere_are_asked_for(repository, tmp_path):
    cfg = read(repository, "fpn_uniformer_xxs")
    for missing in (None, dict(batch_size=1)):
        cfg.test_dataloader = missing
        with pytest.raises(ValueError, match=r"fpn.*\.py does not set test_dataloader\.dataset, "):
            visualizer_of(cfg, tmp_path)
    # those of the checkpoint are enough
    meta = dict(dataset_meta=dict(classes=["a"]))
    assert visualizer_of(cfg, tmp_path, meta=meta).dataset_meta["classes"] == ["a"]


def test_names_in_the_checkpoint_come_before_those_in_the_config(repository, tmp_path):
    cfg = read(repository, "maskrcnn_uniformer_xxs")
    meta = dict(classes=("cat", "dog"), palette=[(1, 2, 3), (4, 5, 6)])
    found = visualizer_of(cfg, tmp_path, meta=dict(dataset_meta=meta)).dataset_meta
    assert found == dict(meta, classes=["cat", "dog"])


@every_kind
def test_names_in_the_config_are_taken(repository, mini_root, tmp_path, kind):
    cfg = read(repository, kind)
    apply_mini(cfg, mini_root)
    found = visualizer_of(cfg, tmp_path).dataset_meta
    assert found["classes"] == list(cfg.test_dataloader.dataset.metainfo.classes)
    assert {"star", "ring"} <= set(found["classes"])


@pytest.mark.parametrize("palette", [None, [], [(1, 2, 3)], "random"], ids=str)
def test_each_class_has_a_colour(repository, tmp_path, palette):
    meta = dict(dataset_meta=dict(classes=["a", "b"], palette=palette))
    torch.save(dict(state_dict={}, meta=meta), tmp_path / "some.pth")
    cfg = read(repository, "fpn_uniformer_xxs")
    colors = read_dataset_meta(cfg, tmp_path / "some.pth")["palette"]
    assert len(set(colors)) == 2


@every_kind
def test_a_class_without_a_name_is_refused(repository, tmp_path, kind):
    meta = dict(dataset_meta=dict(classes=["a", "b"]))
    visualizer = visualizer_of(read(repository, kind), tmp_path, meta=meta)
    draw(visualizer, noise(40, 30), sample_of(kind, 40, 30, label=1), 0.3)
    with pytest.raises(ValueError, match="names of 2 classes, but class 2 was predicted"):
        draw(visualizer, noise(40, 30), sample_of(kind, 40, 30, label=2), 0.3)


@every_kind
def test_class_names_are_drawn_as_they_are(repository, tmp_path, kind, drawn_texts):
    names = ["$1_$2", "_b"]
    visualizer = visualizer_of(
        read(repository, kind), tmp_path, meta=dict(dataset_meta=dict(classes=names))
    )
    for label, name in enumerate(names):
        draw(visualizer, noise(80, 60), sample_of(kind, 80, 60, label=label), 0.3)
        assert any(name in text for text in drawn_texts)
        drawn_texts.clear()
    assert visualizer.dataset_meta["classes"] == names


def test_pictures_are_wide_enough_for_text_and_never_too_large():
    rng = np.random.default_rng(0)
    for height, width in np.exp(rng.uniform(0, np.log(20000), (300, 2))).astype(int).tolist():
        new_height, new_width = picture_size(height, width)
        assert max(new_height, new_width) <= MAX_SIDE
        # as wide as text needs, unless that would be too long
        assert new_width >= 512 or max(new_height, new_width) > MAX_SIDE / 2
        if new_width > width:
            assert (new_height % height, new_width % width) == (0, 0)
    assert picture_size(96, 128) == (384, 512)
    assert picture_size(480, 640) == (480, 640)


def test_enlarging_repeats_each_pixel_and_pads_with_white():
    pixels = noise(128, 3)
    canvas = resize(pixels, picture_size(3, 128), fill=255)
    assert np.array_equal(canvas[:12], pixels.repeat(4, axis=0).repeat(4, axis=1))
    assert canvas.shape == (64, 512, 3)
    assert (canvas[12:] == 255).all()


@pytest.mark.parametrize("size", [(128, 96), (1000, 700), (6000, 1500)], ids=str)
def test_boxes_and_masks_fit_the_drawn_image(repository, tmp_path, size):
    kind = "maskrcnn_uniformer_xxs"
    meta = dict(dataset_meta=dict(classes=["thing"], palette=[(255, 0, 0)]))
    visualizer = visualizer_of(read(repository, kind), tmp_path, meta=meta)
    grey = np.full((*size[::-1], 3), 128, dtype=np.uint8)
    drawn = draw(visualizer, grey, sample_of(kind, *size), 0.3)
    assert drawn.shape[:2] == picture_size(*size[::-1])
    changed = np.argwhere((drawn != 128).any(axis=2)) / drawn.shape[:2]
    # lines are some pixels wide
    slack = 6 / np.array(drawn.shape[:2])
    assert (abs(changed.min(axis=0) - 0.25) <= slack).all()
    assert (abs(changed.max(axis=0) - 0.75) <= slack).all()
    untouched = draw(visualizer, grey, sample_of(kind, *size), 0.95)
    assert (untouched == 128).all()


@every_kind
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (5000, 7), (128, 96)], ids=str)
def test_pictures_of_any_proportion_can_be_drawn(repository, tmp_path, kind, size):
    visualizer = visualizer_of(read(repository, kind), tmp_path)
    drawn = draw(visualizer, noise(*size), sample_of(kind, *size), 0.3)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] >= 512
    # beside a map stands its legend, whose text grows with large pictures
    assert max(drawn.shape) <= 1.5 * MAX_SIDE
    assert len(Image.fromarray(drawn).getcolors(1 << 24)) > 2


@pytest.mark.parametrize("ending", [*ENDINGS, ".PNG"])
def test_each_ending_that_is_offered_can_be_written(tmp_path, ending):
    pixels = np.full((64, 512, 3), (200, 30, 60), dtype=np.uint8)
    out = tmp_path / "new" / f"grüße 图{ending}"
    write(pixels, out)
    with Image.open(out) as picture:
        found = np.asarray(picture.convert("RGB")).astype(int)
    # some lose a little
    assert abs(found - pixels).max() <= 8
