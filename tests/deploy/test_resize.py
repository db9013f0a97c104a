"""Images resized inside a file are those of the framework, and so are the predictions."""

import numpy as np
import pytest
import torch
from detector_cases import build, draw, small_config
from export_cases import small_binary_segmentor, small_classifier, small_segmentor
from mmcv.transforms import Compose, Resize
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope, init_default_scope
from PIL import Image

from hybrid_backbones.deploy import compare, run
from hybrid_backbones.deploy.whole import export_trained
from hybrid_backbones.inference.demo import predict

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra deploy")
resize = pytest.importorskip("hybrid_backbones.deploy.resize", reason="needs the extra deploy")

BICUBIC = dict(backend="pillow", interpolation="bicubic")
# framework and steps of its test pipeline
PIPELINES = {
    "detector": ("mmdet", [dict(type="Resize", scale=(133, 80), keep_ratio=True)]),
    "fixed": ("mmseg", [dict(type="Resize", scale=(50, 28))]),
    "square": ("mmseg", [dict(type="Resize", scale=41)]),
    "within a square": ("mmdet", [dict(type=Resize, scale=83, keep_ratio=True)]),
    "multiple": (
        "mmseg",
        [
            dict(type="Resize", scale=(204, 51), keep_ratio=True),
            dict(type="ResizeToMultiple", size_divisor=32),
        ],
    ),
    "sketch": ("mmdet", [dict(type="RoundedResize", scale=(133, 80))]),
    "classifier": (
        "mmpretrain",
        [
            dict(type="ResizeEdge", scale=37, edge="short", **BICUBIC),
            dict(type="CenterCrop", crop_size=32),
        ],
    ),
    "bilinear": ("mmpretrain", [dict(type="ResizeEdge", scale=37, backend="pillow")]),
}
SIZES = [(97, 61), (61, 97), (40, 41), (300, 17)]


@pytest.fixture(autouse=True)
def _alone():
    with DefaultScope.overwrite_default_scope(None):
        yield


def config(scope, steps):
    pipeline = [dict(type="LoadImageFromFile"), *steps, dict(type="PackInputs")]
    dataset = dict(pipeline=pipeline)
    return ConfigDict(default_scope=scope, test_dataloader=dict(dataset=dataset))


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", PIPELINES)
def test_pixels_are_those_of_the_framework_up_to_one_level(kind):
    scope, steps = PIPELINES[kind]
    found = resize.Resizing(config(scope, steps))
    init_default_scope(scope)
    host = Compose(steps)
    sessions = [onnxruntime.InferenceSession(model.SerializeToString()) for model in found.models]
    sizes = set()
    for size in SIZES:
        pixels = noise(*size)
        expected = host(dict(img=pixels[..., ::-1], img_shape=size, ori_shape=size))["img"]
        images = pixels.transpose(2, 0, 1)[None].copy()
        assert torch.equal(
            found.resize(torch.from_numpy(images))[0],
            torch.from_numpy(expected[..., ::-1].transpose(2, 0, 1).copy()),
        )
        for session in sessions:
            (images,) = session.run(None, {session.get_inputs()[0].name: images})
        ours = images[0].transpose(1, 2, 0).astype(int)
        assert ours.shape == expected.shape
        # the second step sees differences of the first
        assert np.abs(ours - expected[..., ::-1]).max() <= len(steps)
        sizes.add(ours.shape[:2])
    assert found.size == (sizes.pop() if len(sizes) == 1 else None)


def test_the_steps_of_a_wrapped_test_set_are_exported():
    cfg = config("mmseg", PIPELINES["fixed"][1])
    expected = resize.Resizing(cfg)
    loader = cfg.test_dataloader
    loader.dataset = dict(type="RepeatDataset", times=2, dataset=loader.dataset)
    found = resize.Resizing(cfg)
    assert (found.steps, found.size) == (expected.steps, (28, 50))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "does not resize images; leave it out"),
        ([dict(type="Resize", scale_factor=1.0, keep_ratio=True)], "does not resize images"),
        ([dict(type="Resize", scale_factor=0.5)], "Resize of the test pipeline, as it is set"),
        ([dict(type="Rotate", angle=3)], "Rotate of the test pipeline, as it is set there, has no"),
        ([dict(type="ResizeEdge", scale=9, backend="cv2", interpolation="area")], "no form in"),
        ([dict(type="ResizeEdge", scale=9, edge="long")], "ResizeEdge of the edge 'long'"),
    ],
)
def test_steps_that_cannot_be_exported_are_one_line(steps, message):
    with pytest.raises(ValueError, match=f"--resize: .*{message}"):
        resize.Resizing(config("mmpretrain", steps))


@pytest.mark.parametrize(
    "make",
    [
        small_classifier,
        pytest.param(small_segmentor, marks=pytest.mark.exhaustive),
        pytest.param(small_binary_segmentor, marks=pytest.mark.exhaustive),
    ],
)
def test_a_file_that_resizes_predicts_as_the_framework_on_any_size(repository, tmp_path, make):
    _, cfg = make(repository, tmp_path)
    steps = cfg.test_dataloader.dataset.pipeline
    for step in steps:
        # smaller, to save time; the second and third of segmentors are aligned to 32 pixels
        if "scale" in step:
            step.scale = 70 if isinstance(step.scale, int) else (256, 64)
        if "crop_size" in step:
            step.crop_size = 64
    cfg.filename = "small.py"
    file = tmp_path / "small.onnx"
    report = export_trained(cfg, tmp_path / "small.pth", file, (90, 120), resize=True)
    assert report["preprocessing"]["resize"]
    for size in ((97, 61), (200, 310)):
        image = tmp_path / f"{size[0]}.png"
        # patches, so that labels differ
        Image.fromarray(noise(5, 4)).resize(size[::-1], 0).save(image)
        ((_, _, sample),) = predict(cfg, [image], tmp_path / "small.pth", "cpu")
        found = run(file, image)
        if "probabilities" in found:
            np.testing.assert_allclose(found["probabilities"], sample.pred_score, atol=2e-3)
        else:
            expected = sample.pred_sem_seg.data[0].numpy()
            assert found["labels"].shape == expected.shape == size
            assert len(np.unique(expected)) > 1
            assert (found["labels"] != expected).mean() < 0.01


@pytest.mark.exhaustive
def test_a_detector_that_resizes_finds_what_the_framework_finds(
    repository, mini_root, tmp_path, monkeypatch
):
    cfg = small_config(repository, mini_root, "mask")
    (resize_step,) = (x for x in cfg.test_dataloader.dataset.pipeline if x.type == "Resize")
    del resize_step.scale_factor
    resize_step.scale = (150, 90)
    checkpoint, file, image = (tmp_path / name for name in ("a.pth", "a.onnx", "a.png"))
    torch.save(dict(state_dict=build(cfg).state_dict()), checkpoint)
    # random weights enlarge what a level changes
    monkeypatch.setitem(compare.BOUNDS, "resized", compare.Bounds(10.0, 1.0, 1.0))
    export_trained(cfg, checkpoint, file, (90, 150), resize=True)
    for size in ((45, 75), (75, 45), (90, 150)):
        # enlarged twice, sixteenths of such levels are whole, so that nothing is rounded
        pixels = draw(*size)[0].permute(1, 2, 0).numpy() // 16 * 16
        Image.fromarray(pixels).save(image)
        ((_, _, sample),) = predict(cfg, [image], checkpoint, "cpu")
        found, expected = run(file, image), sample.pred_instances
        assert found["labels"].tolist() == expected.labels.tolist()
        assert len(expected) > 5
        np.testing.assert_allclose(found["boxes"], expected.bboxes, atol=1e-4 * max(size))
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
        assert found["masks"].shape[1:] == size
        assert (found["masks"] != expected.masks.numpy()).mean() < 1e-3
