"""LocFormer computes the published numbers: entries, features, scores, boxes, losses, matches."""

import re

import pytest
import torch
from golden.fill import compare, make_input
from helpers import golden_files, published_weights
from locformer_cases import build, make_samples, read_config
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData

from hybrid_backbones.checkpoints import load_published, rename
from hybrid_backbones.locformer.detector import find_padding

pytestmark = pytest.mark.upstream

((_, GOLDEN),) = golden_files("locformer_swin_tiny_detector.json")


@pytest.fixture(scope="module")
def published():
    """The released detector, its inputs, and what it computes from them."""
    model = build(read_config("locformer_swin_t_released")).eval()
    dropped = load_published(model, published_weights(GOLDEN)).dropped
    (case,) = GOLDEN["cases"]
    shapes = (224, 288), tuple(case["valid_size_of_second_image"])
    samples = make_samples(*shapes)
    images = make_input(case["shape"], case["seed"])
    images = images.masked_fill(find_padding(images, samples)[:, None], 0)
    for sample, target in zip(samples, case["targets"], strict=True):
        height, width = sample.img_shape
        boxes = bbox_cxcywh_to_xyxy(torch.tensor(target["boxes_cxcywh"]))
        sample.gt_instances = InstanceData(
            bboxes=boxes * torch.tensor([width, height, width, height]),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
    sketches = make_input(case["sketch_shape"], case["sketch_seed"])[:, None]
    with torch.no_grad():
        outputs = model(images, sketches, samples)
    return model, dropped, (images, sketches, samples), outputs, case


def test_published_entries_map_one_to_one_and_the_rest_is_unused(published):
    model, dropped, *_ = published
    assert len(model.state_dict()) + len(dropped) == len(GOLDEN["entries"])
    loaded = {rename(name, model.published.rename) for name, *_ in GOLDEN["entries"]}
    assert loaded >= model.state_dict().keys()


def test_our_own_names_are_left_alone(published):
    model, *_ = published
    other = build(read_config("locformer_uniformer_s"))
    for network in (model, other):
        for name in network.state_dict():
            assert rename(name, network.published.rename) == name


def test_sketch_features_scores_and_boxes_of_all_levels_are_the_published_ones(published):
    model, _, (_, sketches, _), (logits, boxes), case = published
    with torch.no_grad():
        compare([model.sketch_encoder(sketches)[:, 0]], [case["sketch_features"]])
    # the target's logit is the second there
    compare(list(logits.flip(-1)), [*case["aux_logits"], case["logits"]])
    compare(list(boxes), [*case["aux_boxes"], case["boxes"]])


def test_losses_are_the_published_ones(published):
    model, _, inputs, _, case = published
    with torch.no_grad():
        losses = model(*inputs, mode="loss")
    weights = dict(cls=2, bbox=5, iou=2)
    names = dict(cls="loss_ce", bbox="loss_bbox", iou="loss_giou")
    assert len(losses) == 21
    for name, loss in losses.items():
        level, kind = re.fullmatch(r"(?:d(\d)\.)?loss_(\w+)", name).groups()
        theirs = case["losses"][names[kind] + (f"_{level}" if level else "")]
        assert loss.item() / weights[kind] == pytest.approx(theirs, rel=1e-4)


def test_matches_are_the_published_ones(published):
    model, _, (_, _, samples), (logits, boxes), case = published
    for i, sample in enumerate(samples):
        height, width = sample.img_shape
        corners = bbox_cxcywh_to_xyxy(boxes[-1, i])
        found = InstanceData(
            scores=logits[-1, i], bboxes=corners * torch.tensor([width, height, width, height])
        )
        assigned = model.bbox_head.assigner.assign(found, sample.gt_instances, sample.metainfo)
        queries = assigned.gt_inds.nonzero().flatten()
        objects = assigned.gt_inds[queries] - 1
        assert [queries.tolist(), objects.tolist()] == case["matches"][i]
