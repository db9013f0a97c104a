"""Laws of the stand-in for mmcv's operators on boxes, rotated boxes and masks; models of them."""

import mmcv_map_oracles as oracles
import mmcv_oracles
import numpy as np
import pytest
import torch
from mmcv_oracles import normal
from test_mmcv_ops import on_each_device, random_boxes

from hybrid_backbones import mmcv_ops

mmcv_ops.install()

import mmcv.ops  # noqa: E402
from mmdet.models.necks import FPN_CARAFE, DyHead  # noqa: E402
from mmseg.models.decode_heads import PSAHead  # noqa: E402

pytestmark = [
    pytest.mark.upstream,
    pytest.mark.skipif(not mmcv_ops.is_standin(), reason="mmcv has its own operators"),
]


@on_each_device
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_overlaps_of_all_pairs_or_of_each_pair(mode, offset, device):
    first, second = random_boxes(12)[0].float(), random_boxes(9)[0].float()
    got = mmcv.ops.bbox_overlaps(first.to(device), second.to(device), mode, False, offset)
    for (i, j), value in np.ndenumerate(got.cpu().numpy()):
        expected = mmcv_oracles.iou(first[i].tolist(), second[j].tolist(), offset)
        if mode == "iof":
            # from the IoU, and the areas
            areas = [(b[2:] - b[:2] + offset).prod().item() for b in (first[i], second[j])]
            common = expected * sum(areas) / (1 + expected)
            expected = common / areas[0] if areas[0] else 0.0
        assert value == pytest.approx(expected, rel=1e-5)
    aligned = mmcv.ops.bbox_overlaps(first[:9].to(device), second.to(device), mode, True, offset)
    torch.testing.assert_close(aligned, got[:9].diagonal())


def test_nms_match_groups_each_kept_box_with_those_it_suppresses():
    boxes, scores = random_boxes(40)
    dets = torch.cat([boxes, scores[:, None]], 1).float()
    groups = [group.tolist() for group in mmcv.ops.nms_match(dets, 0.3)]
    assert sorted(i for group in groups for i in group) == list(range(40))
    assert any(len(group) > 1 for group in groups)
    earlier = []
    for best, *others in groups:
        for i in others:
            overlaps = [mmcv_oracles.iou(boxes[j].tolist(), boxes[i].tolist(), 0) for j in earlier]
            assert mmcv_oracles.iou(boxes[best].tolist(), boxes[i].tolist(), 0) >= 0.3
            assert max(overlaps, default=0) < 0.3
        earlier.append(best)
        order = scores[[best, *others]].tolist()
        assert order == sorted(order, reverse=True)
    assert earlier == mmcv_oracles.nms(boxes.tolist(), scores.tolist(), 0.3, 0)
    arrays = mmcv.ops.nms_match(dets.numpy(), 0.3)
    assert [group.tolist() for group in arrays] == groups


@on_each_device
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_rotated_overlaps_are_those_of_the_polygons(mode, device):
    first, second = oracles.random_rotated(20), oracles.random_rotated(15, seed=1)
    got = mmcv.ops.box_iou_rotated(first.to(device), second.to(device), mode).cpu()
    pairs = [[oracles.rotated_iou(a, b, mode) for b in second.tolist()] for a in first.tolist()]
    expected = torch.tensor(pairs, dtype=torch.float32)
    assert (expected > 0.05).sum() > 50
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    aligned = mmcv.ops.box_iou_rotated(first[:15].to(device), second.to(device), mode, True)
    torch.testing.assert_close(aligned.cpu(), got[:15].diagonal())


@pytest.mark.parametrize("mirror", [1, -1], ids=["clockwise", "counterclockwise"])
@pytest.mark.parametrize("shift", [0, 1000], ids=["near", "far"])
@pytest.mark.parametrize(
    ("box", "other", "common"),
    [x[1:] for x in oracles.SPECIAL],
    ids=[x[0] for x in oracles.SPECIAL],
)
def test_rotated_boxes_that_meet_on_their_sides(box, other, common, shift, mirror):
    move = torch.tensor([shift, shift, 0, 0, 0], dtype=torch.float64)
    boxes = [torch.tensor([b], dtype=torch.float64) + move for b in (box, other)]
    for a, b in (boxes, boxes[::-1]):
        got = mmcv.ops.box_iou_rotated(a, b, clockwise=mirror > 0)
        areas = [x[0, 2] * x[0, 3] for x in (a, b)]
        expected = common / (sum(areas) - common)
        torch.testing.assert_close(got[0, 0], expected, rtol=1e-5, atol=1e-9)


@on_each_device
def test_a_rotated_box_covers_itself_and_its_copy_of_half_the_size(device):
    boxes = oracles.random_rotated(500).double().to(device)
    boxes[:, :2] += 100
    one = mmcv.ops.box_iou_rotated(boxes, boxes, aligned=True)
    torch.testing.assert_close(one, torch.ones_like(one), rtol=1e-5, atol=0)
    # with one corner in common, and sides on each other
    smaller = boxes.clone()
    smaller[:, 2:4] /= 2
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    width, height = smaller[:, 2] / 2, smaller[:, 3] / 2
    smaller[:, 0] += cos * width - sin * height
    smaller[:, 1] += sin * width + cos * height
    share = mmcv.ops.box_iou_rotated(smaller, boxes, "iof", aligned=True)
    torch.testing.assert_close(share, torch.ones_like(share), rtol=1e-5, atol=0)


@on_each_device
@pytest.mark.parametrize("labelled", [False, True])
def test_rotated_nms_keeps_what_no_better_box_overlaps(labelled, device):
    boxes, scores = oracles.random_rotated(30), torch.randperm(30).float()
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(oracles.rotated_iou(boxes[i].tolist(), boxes[j].tolist()) <= 0.2 for j in kept):
            kept.append(i)
    # mmcv's kernels take labels and do not use them
    labels = (torch.arange(30) % 2).to(device) if labelled else None
    dets, inds = mmcv.ops.nms_rotated(boxes.to(device), scores.to(device), 0.2, labels)
    assert inds.tolist() == kept
    assert len(kept) < 30
    assert torch.equal(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[kept])


@on_each_device
def test_batched_rotated_nms_is_that_of_each_class(device):
    boxes, scores = oracles.random_rotated(30), torch.randperm(30).float()
    classes = torch.arange(30) % 2
    settings = dict(type="nms_rotated", iou_threshold=0.2)
    tensors = (x.to(device) for x in (boxes, scores, classes))
    _, inds = mmcv.ops.batched_nms(*tensors, settings)
    kept = []
    for label in (0, 1):
        (members,) = torch.where(classes == label)
        chosen = mmcv.ops.nms_rotated(boxes[members], scores[members], 0.2)[1]
        kept += members[chosen].tolist()
    assert inds.tolist() == sorted(kept, key=lambda i: -scores[i])


@on_each_device
def test_masked_convolution_is_the_convolution_where_the_mask_is(device):
    features, mask = normal(1, 3, 6, 7).float().to(device), (normal(1, 6, 7) > 0).to(device)
    layer = mmcv.ops.MaskedConv2d(3, 4, 3, padding=1).to(device)
    with torch.no_grad():
        got, whole = layer(features, mask), layer(features)
    torch.testing.assert_close(got, whole * mask)
    assert not layer(features, torch.zeros_like(mask)).any()


@on_each_device
@pytest.mark.parametrize("version", [1, 2])
def test_no_gradient_reaches_an_offset_at_minus_one_or_before(version, device):
    # with padding 1 and offsets of zero, the border taps sample at -1 exactly
    maps, weight = normal(1, 2, 4, 4).to(device), normal(3, 2, 3, 3).to(device)
    size = (1, 18, 4, 4)

    def gradient(shift):
        offset = torch.full(size, shift, dtype=torch.float64, device=device, requires_grad=True)
        if version == 1:
            output = mmcv.ops.deform_conv2d(maps, offset, weight, 1, 1, 1, 1, 1, False, 1)
        else:
            ones = torch.ones(1, 9, 4, 4, dtype=torch.float64, device=device)
            output = mmcv.ops.modulated_deform_conv2d(maps, offset, ones, weight, None, 1, 1, 1)
        return torch.autograd.grad(output.sum(), offset)[0].view(3, 3, 2, 4, 4)

    at_zero, just_inside = gradient(0.0), gradient(1e-9)
    top_row_above, left_column_before = (0, slice(None), 0, 0), (slice(None), 0, 1, slice(None), 0)
    for taps in (top_row_above, left_column_before):
        assert not at_zero[taps].any()
        assert just_inside[taps].any()
    # all taps that sample inside keep their slope
    inside = torch.ones_like(at_zero, dtype=torch.bool)
    inside[0, :, :, 0] = inside[:, 0, :, :, 0] = False
    torch.testing.assert_close(at_zero[inside], just_inside[inside])


def test_offsets_for_fewer_positions_than_the_output_are_refused():
    offset, mask = torch.zeros(1, 18, 3, 3), torch.zeros(1, 9, 3, 3)
    with pytest.raises(ValueError, match=r"4×4 positions, 288 values, got \(1, 18, 3, 3\)"):
        mmcv.ops.modulated_deform_conv2d(
            torch.zeros(1, 2, 4, 4), offset, mask, torch.zeros(3, 2, 3, 3), None, 1, 1, 1
        )


def pyramid(channels):
    return [normal(2, channels, side, side).float() for side in (16, 8, 4)]


# DyHead passes the offsets of each level to the next smaller one
MODELS = {
    "DyHead": lambda: DyHead(in_channels=16, out_channels=16, num_blocks=2),
    "FPN_CARAFE": lambda: FPN_CARAFE(in_channels=[16, 16, 16], out_channels=16, num_outs=3),
    "PSAHead": lambda: PSAHead(
        **dict(in_channels=16, in_index=0, channels=16, num_classes=3, mask_size=(7, 7)),
        **dict(shrink_factor=2, compact=False, norm_cfg=dict(type="BN")),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_these_operators_trains(name):
    model = MODELS[name]()
    model.init_weights()
    outputs = model(tuple(pyramid(16)))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(output.square().mean() for output in outputs).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) > 4
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.any() for grad in grads) > len(grads) / 2
