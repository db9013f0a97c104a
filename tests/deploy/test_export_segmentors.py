"""Exported segmentors predict what mmseg predicts, at every size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_cases import small_binary_segmentor, small_segmentor
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmseg.models.utils.wrappers import Upsample
from tiers import few_of

from hybrid_backbones.deploy import export_onnx, resampling
from hybrid_backbones.deploy.resampling import averaging_matrix
from hybrid_backbones.deploy.whole import Normalisation, Segmentor, export_trained
from hybrid_backbones.inference.labels import class_logits

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra deploy")
CHANNELS = [16, 24, 32, 48]


@pytest.mark.parametrize("number", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 5, 6, 13])
def test_averaging_matrices_are_adaptive_pooling(length, number):
    torch.manual_seed(0)
    x = torch.randn(2, 3, length)
    ours = x @ averaging_matrix(length, number).T
    torch.testing.assert_close(ours, F.adaptive_avg_pool1d(x, number))


@pytest.mark.parametrize("numbers", [2, (3, 1)])
def test_the_exported_form_of_pooling_is_pytorchs(numbers, monkeypatch):
    monkeypatch.setattr(resampling, "is_exporting", lambda: True)
    x = torch.randn(2, 3, 5, 7)
    expected = F.adaptive_avg_pool2d(x, numbers)
    torch.testing.assert_close(resampling.AdaptivePool(numbers)(x), expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_enlarging_is_the_hosts(align_corners):
    host = Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(resampling.Enlarge(host)(x), host(x))


def build(repository, head):
    cfg = Config.fromfile(repository / "configs" / f"{head}.py")
    init_default_scope(cfg.default_scope)
    model, sizes = cfg.model, dict(depths=(1, 1, 1, 1), embed_dims=CHANNELS)
    model.backbone = dict(type="SwiftFormer", arch=sizes)
    model.auxiliary_head, model.pretrained = None, None
    if "neck" in model:
        model.neck.in_channels = CHANNELS
    else:
        model.decode_head.update(in_channels=CHANNELS, channels=16)
    torch.manual_seed(0)
    return MODELS.build(model).eval(), cfg


@torch.no_grad()
def predict(model, images):
    """Predict as mmseg does for images of its own loading, which are BGR."""
    from mmseg.structures import SegDataSample

    size = tuple(images.shape[2:])
    samples = [SegDataSample(metainfo=dict(ori_shape=size, img_shape=size)) for _ in images]
    data = model.data_preprocessor(dict(inputs=list(images.flip(1)), data_samples=samples))
    results = model.predict(data["inputs"], data["data_samples"])
    return np.stack([result.pred_sem_seg.data[0].numpy() for result in results])


@pytest.mark.parametrize("head", few_of(["upernet_r50", "fpn_r50"]))
def test_a_dynamic_segmentor_predicts_as_mmseg(repository, tmp_path, head):
    with DefaultScope.overwrite_default_scope(None):
        model, cfg = build(repository, head)
        out = tmp_path / "segmentor.onnx"
        export_onnx(
            Segmentor(model, Normalisation(cfg.model.data_preprocessor)),
            out,
            (65, 97),
            dynamic=True,
            example=lambda batch, *size: torch.randint(256, (batch, 3, *size), dtype=torch.uint8),
            output_names=("labels",),
        )
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        for batch, height, width in ((1, 97, 131), (2, 224, 64), (1, 33, 250)):
            images = torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)
            (labels,) = session.run(None, {"images": images.numpy()})
            expected = predict(model, images)
            assert labels.shape == expected.shape
            # two classes of one pixel may be equal but for rounding
            assert (labels != expected).mean() <= 1e-3


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.6])
def test_of_one_channel_the_label_is_whether_the_sigmoid_exceeds_the_threshold(threshold):
    torch.manual_seed(0)
    logits, head = torch.randn(2, 1, 9, 7), SimpleNamespace(threshold=threshold)
    expected = (logits.sigmoid() > threshold).long()
    assert len(expected.unique()) == 2
    assert torch.equal(class_logits(head, logits).argmax(1, keepdim=True), expected)
    several = torch.randn(2, 3, 9, 7)
    assert class_logits(head, several) is several


@pytest.mark.parametrize("threshold", [0, 1])
def test_a_threshold_that_leaves_one_label_is_refused(threshold):
    with pytest.raises(ValueError, match=f"must lie between 0 and 1, got {threshold}"):
        class_logits(SimpleNamespace(threshold=threshold), torch.zeros(1, 1, 2, 2))


def test_a_segmentor_of_one_channel_predicts_as_mmseg(repository, tmp_path):
    with DefaultScope.overwrite_default_scope(None), torch.no_grad():
        model, cfg = small_binary_segmentor(repository, tmp_path)
        images = torch.randint(256, (2, 3, 65, 97), dtype=torch.uint8)
        expected = predict(model, images)
        assert len(np.unique(expected)) == 2
        normalise = Normalisation(cfg.model.data_preprocessor)
        (labels,) = Segmentor(model, normalise)(images)
        # before a file that resizes enlarges them
        (logits,) = Segmentor(model, normalise, argmax=False)(images)
        for found in (labels, logits.argmax(1)):
            assert (found.numpy() != expected).mean() <= 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test_cfg": dict(mode="slide", crop_size=(64, 64), stride=(40, 40))},
            r"slide is not exported.*: add --cfg-options model\.test_cfg\.mode=whole",
        ),
        (
            {"data_preprocessor.test_cfg": dict(size_divisor=32)},
            r"test_cfg is not exported.*: add .* model\.data_preprocessor\.test_cfg=None",
        ),
        ({"test_cfg": None}, r"model\.test_cfg is not set.*: add .* model\.test_cfg\.mode=whole"),
    ],
    ids=["windows", "padding", "nothing"],
)
def test_what_mmseg_does_with_images_first_is_refused_with_the_way_out(
    repository, tmp_path, options, message
):
    with DefaultScope.overwrite_default_scope(None):
        _, cfg = small_segmentor(repository, tmp_path)
        cfg.merge_from_dict({f"model.{key}": value for key, value in options.items()})
        with pytest.raises(ValueError, match=message):
            export_trained(cfg, tmp_path / "small.pth", tmp_path / "a.onnx", 64)


def test_a_head_that_chooses_masks_is_refused(repository):
    cfg = Config.fromfile(repository / "configs/mask2former_ade_swiftformer_xs.py")
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        model = MODELS.build(cfg.model)
    with pytest.raises(ValueError, match="Mask2FormerHead is not exported: add --backbone-only"):
        Segmentor(model, torch.nn.Identity())
