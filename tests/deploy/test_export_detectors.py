"""An exported detector finds what the host's own prediction finds, at every size."""

import pytest
import torch
from detector_cases import (
    CONFIGS,
    assert_same,
    build,
    draw,
    load,
    predict_by_host,
    small_config,
    wrap,
)
from tiers import few_of
from torch import nn

from hybrid_backbones.deploy import export_onnx
from hybrid_backbones.deploy.candidates import EMPTY, best
from hybrid_backbones.deploy.detectors import Anchors, Detector
from hybrid_backbones.deploy.whole import export_trained

pytest.importorskip("onnxruntime", reason="needs the extra deploy")

# odd, so that images are padded; at the last one all levels have fewer anchors than candidates
SIZES = [(149, 171), (97, 131), (33, 40)]


@pytest.fixture(params=CONFIGS)
def case(request, repository, mini_root):
    cfg = small_config(repository, mini_root, request.param)
    return cfg, build(cfg)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_graph_computes_the_hosts_prediction(case, size):
    cfg, model = case
    images = draw(*size)
    expected = predict_by_host(model, images)
    assert len(expected) > 5
    assert len(expected.labels.unique()) > 1
    with torch.no_grad():
        assert_same(wrap(cfg, model)(images), expected, size)


def export(cfg, model, path, size, **options):
    whole = wrap(cfg, model)
    return export_onnx(
        whole, path, size, example=whole.example, output_names=whole.names, **options
    )


@pytest.mark.exhaustive
def test_a_fixed_file_finds_what_the_host_finds(repository, mini_root, tmp_path):
    cfg = small_config(repository, mini_root, "mask")
    model, size = build(cfg), SIZES[1]
    export(cfg, model, tmp_path / "a.onnx", size)
    run, _ = load(tmp_path / "a.onnx")
    for seed in (1, 2):
        images = draw(*size, seed)
        assert_same(run(images), predict_by_host(model, images), size)


# calls of operators in a file: NMS of proposals and of objects; RoIAlign on four levels, for each
# stage and for the masks, whose heads share their features
CALLS = dict(
    retinanet=dict(NonMaxSuppression=1),
    mask=dict(NonMaxSuppression=2, RoiAlign=4 * (1 + 1)),
    cascade=dict(NonMaxSuppression=2, RoiAlign=4 * (3 + 1)),
)


@pytest.mark.parametrize("kind", few_of(CONFIGS, "mask"))
def test_a_dynamic_file_finds_what_the_host_finds_at_every_size(
    repository, mini_root, tmp_path, kind
):
    cfg = small_config(repository, mini_root, kind)
    model = build(cfg)
    images = [draw(*size) for size in (*SIZES, (210, 300))]
    # just above all scores of one of the images
    lowest, second, *_ = sorted(predict_by_host(model, x).scores.max().item() for x in images)
    head = model.roi_head if hasattr(model, "roi_head") else model.bbox_head
    head.test_cfg.score_thr = (lowest + second) / 2
    report = export(cfg, model, tmp_path / "a.onnx", (133, 150), dynamic=True, single=True)
    assert CALLS[kind].items() <= report["operators"].items()
    run, _ = load(tmp_path / "a.onnx")
    numbers = []
    for image in images:
        expected = predict_by_host(model, image)
        numbers.append(len(expected))
        assert_same(run(image), expected, image.shape[2:])
    assert sorted(map(bool, numbers)) == [False, True, True, True]


def test_a_program_finds_what_the_host_finds(repository, mini_root, tmp_path):
    cfg = small_config(repository, mini_root, "retinanet")
    model, size = build(cfg), SIZES[1]
    export(cfg, model, tmp_path / "a.pt2", size)
    images = draw(*size, seed=1)
    found = torch.export.load(tmp_path / "a.pt2").module()(images)
    assert_same(found, predict_by_host(model, images), size)


def test_nothing_found_is_no_boxes(case):
    cfg, model = case
    head = model.roi_head if hasattr(model, "roi_head") else model.bbox_head
    head.test_cfg.score_thr = 1.0
    images = draw(*SIZES[1])
    assert not len(predict_by_host(model, images))
    with torch.no_grad():
        boxes, labels, scores, *masks = wrap(cfg, model)(images)
    assert [tuple(x.shape) for x in (boxes, labels, scores)] == [(0, 4), (0,), (0,)]
    assert all(x.shape == (0, 28, 28) for x in masks)


def test_boxes_too_small_are_no_proposals(repository, mini_root):
    cfg = small_config(repository, mini_root, "mask")
    model = build(cfg)
    model.rpn_head.test_cfg.min_bbox_size = 30
    images = draw(*SIZES[1])
    with torch.no_grad():
        boxes, scores = wrap(cfg, model).first(model.extract_feat(images / 64.0 - 2), (97, 131))
    valid = scores > EMPTY
    assert 0 < valid.sum() < len(valid)
    assert (boxes[valid, 2:] - boxes[valid, :2] > 30).all()
    assert not boxes[~valid].any()
    with torch.no_grad():
        assert_same(wrap(cfg, model)(images), predict_by_host(model, images), (97, 131))


def test_the_boxes_of_all_anchors_come_before_nms(case):
    cfg, model = case
    whole = wrap(cfg, model, Anchors)
    images = draw(*SIZES[1])
    with torch.no_grad():
        boxes, scores = whole(images)
        logits, _ = whole.head(whole.maps(images))
    number = sum(x.shape[1:].numel() for x in logits)
    assert scores.numel() == number
    assert boxes.shape == (len(scores), 4)
    assert ((boxes >= 0) & (boxes <= 131)).all()
    # what is found is among them
    if not whole.has_two_stages:
        found = predict_by_host(model, images)
        distances = (boxes[None] - found.bboxes[:, None]).abs().amax(2)
        assert (distances.amin(1) < 1e-3).all()
        assert scores.max().item() == pytest.approx(found.scores.max().item(), rel=1e-5)


class Best(nn.Module):
    """Three best of any number of scores."""

    def forward(self, scores):
        return best(scores, 3)


def test_the_first_of_equal_scores_is_best_in_every_runtime(tmp_path):
    import onnxruntime

    size = torch.export.Dim.DYNAMIC
    program = torch.export.export(Best(), (torch.ones(5),), dynamic_shapes=({0: size},))
    torch.onnx.export(program, dynamo=True, verbose=False).save(str(tmp_path / "a.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    ties = [0.5, 1, 0.5, 0.5, 1, 1, 0.25]
    for scores in (ties, ties[:2], [1.0] * 9):
        ours = best(torch.tensor(scores), 3)
        theirs = session.run(None, {session.get_inputs()[0].name: torch.tensor(scores).numpy()})
        number = len(ours[0])
        assert number == min(3, len(scores))
        # a file of any size has empty places
        assert theirs[0].tolist() == ours[0].tolist() + [EMPTY] * (3 - number)
        assert theirs[1].tolist() == ours[1].tolist() + [0] * (3 - number)
    assert best(torch.tensor(ties), 3)[1].tolist() == [1, 4, 5]


def save(cfg, path):
    torch.save(dict(state_dict=build(cfg).state_dict(), meta={}), path)
    return path


def test_what_is_not_exported_is_one_line(repository, mini_root, tmp_path):
    cfg = small_config(repository, mini_root, "retinanet")
    checkpoint = save(cfg, tmp_path / "a.pth")
    cfg.model.test_cfg.nms = dict(type="soft_nms", iou_threshold=0.5)
    with pytest.raises(ValueError, match=r"only NMS of each class .* add --no-postprocess"):
        export_trained(cfg, checkpoint, tmp_path / "a.onnx", 64)
    with pytest.raises(ValueError, match="--no-postprocess is for whole detectors"):
        export_trained(cfg, checkpoint, tmp_path / "a.onnx", backbone_only=True, postprocess=False)
    report = export_trained(cfg, checkpoint, tmp_path / "b.pt2", 64, postprocess=False)
    assert list(report["errors"]) == ["anchor_boxes", "anchor_scores"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.json", "b.pt2"]


def test_other_heads_are_refused(repository, mini_root):
    cfg = small_config(repository, mini_root, "mask")
    model = build(cfg)
    model.roi_head.bbox_roi_extractor = nn.Identity()
    with pytest.raises(ValueError, match="Identity is not exported: add --no-postprocess"):
        Detector(model, nn.Identity())
    model.roi_head = nn.Identity()
    with pytest.raises(ValueError, match="Identity is not exported: add --no-postprocess"):
        Detector(model, nn.Identity())
    model.rpn_head.loss_cls = None
    model.rpn_head.use_sigmoid_cls = False
    with pytest.raises(ValueError, match="RPNHead is not exported: add --backbone-only"):
        Anchors(model, nn.Identity())
