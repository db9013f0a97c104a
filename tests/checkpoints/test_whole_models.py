"""Laws of loading whole published detectors and segmentors: of UniFormer, mmdet 2 and mmseg 0.x."""

import re

import pytest
import torch
from checkpoint_cases import assert_equal, snapshot
from helpers import golden_files
from published_models import DETECTORS, SEGMENTORS, build_model, predict, publish, randomise

from hybrid_backbones.checkpoints import dataset_meta, load_published, load_trained
from hybrid_backbones.training.saving import LoadFromHook

PAIR = r"\.(weight|bias)"
CONV_BN = r"\.(conv\.weight|bn\.(weight|bias|running_mean|running_var|num_batches_tracked))"
FPN = rf"neck\.(lateral_convs|fpn_convs)\.[0-3]\.conv{PAIR}"
MASK_HEAD = rf"((convs\.[0-3]\.conv|upsample|conv_logits){PAIR})"
# names outside the backbone in mmdet 2.11 and mmseg 0.13, written from their code
HEADS = {
    "maskrcnn": rf"{FPN}|rpn_head\.(rpn_conv|rpn_cls|rpn_reg){PAIR}|"
    rf"roi_head\.(bbox_head\.(fc_cls|fc_reg|shared_fcs\.[01]){PAIR}|mask_head\.{MASK_HEAD})",
    "cascade": rf"{FPN}|rpn_head\.(rpn_conv|rpn_cls|rpn_reg){PAIR}|roi_head\.mask_head\.[0-2]\."
    rf"{MASK_HEAD}|roi_head\.bbox_head\.[0-2]\.((fc_cls|fc_reg|shared_fcs\.0){PAIR}|"
    rf"shared_convs\.[0-3]{CONV_BN})",
    "fpn": rf"{FPN}|decode_head\.(conv_seg{PAIR}|"
    rf"scale_heads\.(0\.0|1\.0|2\.[02]|3\.[024]){CONV_BN})",
    "upernet": rf"decode_head\.(conv_seg{PAIR}|(psp_modules\.[0-3]\.1|bottleneck|fpn_bottleneck|"
    rf"(lateral_convs|fpn_convs)\.[0-2]){CONV_BN})|"
    rf"auxiliary_head\.(conv_seg{PAIR}|convs\.0{CONV_BN})",
}
NUM_HEAD_ENTRIES = dict(maskrcnn=16 + 6 + 8 + 12, cascade=16 + 6 + 90 + 36, fpn=60, upernet=82)


@pytest.fixture(scope="module")
def detector():
    return randomise(build_model("maskrcnn_uniformer_xxs")).eval()


@pytest.fixture(scope="module")
def segmentor():
    return randomise(build_model("fpn_uniformer_xxs")).eval()


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS])
def test_the_heads_have_their_published_names(name):
    kind = name.split("_")[0]
    names = [n for n in build_model(name, device="meta").state_dict() if "backbone." not in n]
    assert [n for n in names if not re.fullmatch(HEADS[kind], n)] == []
    assert len(names) == NUM_HEAD_ENTRIES[kind]


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("maskrcnn_uniformer_s", "uniformer_det_small_hybrid14"),
        ("maskrcnn_uniformer_xxs", "uniformer_det_xxs"),
        ("fpn_uniformer_s", "uniformer_fpn_small_global"),
        ("upernet_uniformer_s", "uniformer_upernet_small_global"),
    ],
)
def test_stand_ins_have_the_names_and_shapes_of_published_backbones(name, golden):
    ((_, content),) = golden_files(f"{golden}.json")
    backbone = build_model(name, device="meta")
    shapes = {k: list(x.shape) for k, x in publish(backbone).items() if k.startswith("backbone.")}
    assert shapes == {f"backbone.{k}": shape for k, shape, _ in content["entries"]}


@pytest.mark.parametrize("load", [load_published, load_trained])
@pytest.mark.parametrize("kind", ["detector", "segmentor"])
def test_a_whole_published_model_predicts_as_the_one_that_was_published(kind, load, request):
    source = request.getfixturevalue(kind)
    name = dict(detector="maskrcnn_uniformer_xxs", segmentor="fpn_uniformer_xxs")[kind]
    model = build_model(name).eval()
    content = dict(state_dict=publish(source), meta=dict(CLASSES=("a", "b"), epoch=12))
    load(model, content)
    assert_equal(model.state_dict(), source.state_dict())
    torch.testing.assert_close(predict(model), predict(source), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cascade_maskrcnn_uniformer_s_3x", "upernet_uniformer_s"])
@pytest.mark.slow
def test_larger_published_models_load_completely(name):
    source, model = randomise(build_model(name)), build_model(name)
    report = load_published(model, publish(source))
    assert report.loaded == sorted(source.state_dict())
    assert (report.dropped, report.fresh) == ([], [])
    assert_equal(model.state_dict(), source.state_dict())


def test_a_checkpoint_of_ours_loads_as_before(segmentor):
    model = build_model("fpn_uniformer_xxs")
    load_trained(model, dict(state_dict=segmentor.state_dict()))
    assert_equal(model.state_dict(), segmentor.state_dict())


def test_a_backbone_takes_its_part_and_the_report_counts_the_rest(detector):
    backbone = build_model("maskrcnn_uniformer_xxs").backbone
    report = load_published(backbone, dict(state_dict=publish(detector)))
    assert_equal(backbone.state_dict(), detector.backbone.state_dict())
    assert sorted(report.left) == sorted(
        name for name in detector.state_dict() if not name.startswith("backbone.")
    )
    says = "42 outside the backbone left (16 of neck, 20 of roi_head, 6 of rpn_head)"
    assert str(report).endswith(says)


def test_a_classifier_takes_no_detector(detector):
    model = build_model("imagenet_uniformer_xxs")
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"unexpected.*roi_head\.bbox_head"):
        load_published(model, publish(detector))
    assert_equal(model.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda weights: {k: x for k, x in weights.items() if k != "rpn_head.rpn_cls.bias"},
            r"1 missing: rpn_head\.rpn_cls\.bias",
            id="missing",
        ),
        pytest.param(
            lambda weights: weights | {"roi_head.extra.weight": torch.zeros(1)},
            r"1 unexpected: roi_head\.extra\.weight",
            id="unexpected",
        ),
        pytest.param(
            lambda weights: weights | {"backbone.stem.0.bias": torch.zeros(28)},
            r"two entries of the checkpoint become backbone\.stem\.0\.bias",
            id="two of one name",
        ),
        pytest.param(
            lambda weights: weights | {"neck.fpn_convs.0.conv.bias": torch.full((256,), torch.nan)},
            # not: for other classes
            r"1 NaN or infinite: neck\.fpn_convs\.0\.conv\.bias\. Is it a checkpoint",
            id="NaN",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(detector, change, says):
    model = build_model("maskrcnn_uniformer_xxs")
    before = snapshot(model)
    with pytest.raises(ValueError, match=says):
        load_published(model, change(publish(detector)))
    assert_equal(model.state_dict(), before)


def test_a_checkpoint_of_a_backbone_is_no_detector(detector):
    weights = publish(detector)
    bare = {k.removeprefix("backbone."): x for k, x in weights.items() if "backbone." in k}
    with pytest.raises(ValueError, match=r"no whole MaskRCNN.*init_cfg=dict\(type='Published'"):
        load_trained(build_model("maskrcnn_uniformer_xxs"), bare)


# the layers of each model whose size depends on the number of classes
OF_CLASSES = dict(
    detector={
        f"roi_head.{layer}.{kind}"
        for layer in ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits")
        for kind in ("weight", "bias")
    },
    segmentor={"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"},
)


@pytest.mark.parametrize("kind", ["detector", "segmentor"])
def test_other_classes_are_refused_or_their_layers_are_trained_anew(kind, request):
    source = request.getfixturevalue(kind)
    name = dict(detector="maskrcnn_uniformer_xxs", segmentor="fpn_uniformer_xxs")[kind]
    model = build_model(name, num_classes=3)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"num_classes.*--fresh-head") as error:
        load_trained(model, publish(source))
    assert "\n" not in str(error.value)
    assert_equal(model.state_dict(), before)

    content = dict(publish(source))
    LoadFromHook("published.pth", []).after_load_checkpoint(Runner(model), content)
    expected = {k: x for k, x in source.state_dict().items() if k not in OF_CLASSES[kind]}
    assert_equal(content["state_dict"], before | expected)


def test_a_part_can_be_trained_anew_by_its_name(segmentor):
    model = build_model("fpn_uniformer_xxs")
    before, content = snapshot(model), publish(segmentor)
    LoadFromHook("f.pth", ["decode_head"]).after_load_checkpoint(Runner(model), content)
    expected = {k: x for k, x in segmentor.state_dict().items() if not k.startswith("decode_head.")}
    assert_equal(content["state_dict"], before | expected)


def test_a_neck_of_another_width_is_no_matter_of_classes(segmentor):
    weights = publish(segmentor)
    for kind in ("weight", "bias"):
        name = f"neck.lateral_convs.0.conv.{kind}"
        weights[name] = weights[name][:128]
    with pytest.raises(ValueError, match="of this architecture and size"):
        load_trained(build_model("fpn_uniformer_xxs"), weights)


@pytest.mark.parametrize(
    ("fresh", "says"),
    [
        ([], "leave it out to load them, or name .* decode_head"),
        (["bbox_head"], "no head 'bbox_head', expected some of neck, decode_head"),
        (["backbone"], "no head 'backbone'"),
        (["decode_head.conv"], r"no head 'decode_head\.conv'"),
    ],
)
def test_a_fresh_head_that_changes_nothing_is_refused(segmentor, fresh, says):
    with pytest.raises(ValueError, match=says):
        LoadFromHook("f.pth", fresh).after_load_checkpoint(
            Runner(build_model("fpn_uniformer_xxs")), publish(segmentor)
        )


class Runner:
    """What of a runner the hook sees."""

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize("palette", [[[1, 2, 3], [4, 5, 6]], None])
def test_classes_are_read_as_mmdet_2_and_mmseg_0_saved_them(segmentor, palette):
    meta = dict(CLASSES=("wall", "building"), mmseg_version="0.13.0")
    if palette:
        meta["PALETTE"] = palette
    found = dataset_meta(dict(state_dict=publish(segmentor), meta=meta))
    expected = dict(classes=("wall", "building"), **(dict(palette=palette) if palette else {}))
    assert found == expected
