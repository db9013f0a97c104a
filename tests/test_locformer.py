"""Laws of LocFormer: the published numbers, training, queries of several kinds, padding."""

import json
import re

import pytest
import torch
from golden.fill import compare, fill_, make_input
from helpers import golden_files, published_weights
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from hybrid_backbones.checkpoints import load_published, rename
from hybrid_backbones.detectors.guidance import SketchGuided, entry_widths
from hybrid_backbones.detectors.locformer import find_padding, pyramid
from hybrid_backbones.ops.sketch_fusion import grid_positions, to_tokens

pytestmark = pytest.mark.upstream

((_, GOLDEN),) = golden_files("locformer_swin_tiny_detector.json")
SMALL_SWIN = dict(
    type="SwinRAM",
    arch=dict(embed_dims=32, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), drop_path_rate=0.0),
    num_queries=7,
    sketch_dims=64,
)
SMALL_UNIFORMER = dict(
    type="SketchGuided",
    num_queries=7,
    embed_dims=64,
    backbone=dict(
        type="UniFormer",
        arch=dict(
            embed_dims=(32, 64, 128, 256),
            depths=(1, 1, 1, 1),
            head_dims=32,
            conv_stem=False,
            layer_scale=False,
        ),
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
    ),
)


def read_config(repository, name):
    cfg = Config.fromfile(repository / "configs" / f"{name}.py").model
    cfg.sketch_encoder.trunk.init_cfg = None
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(cfg)


def shrink(cfg, backbone=SMALL_SWIN, **head):
    """Turn a config's model into a small one, in place."""
    cfg.backbone = backbone
    cfg.neck.update(in_channels=[64, 128, 256, 64], out_channels=64)
    cfg.sketch_encoder.trunk.update(depth=18, base_channels=8)
    cfg.sketch_encoder.update(in_channels=64, out_channels=64)
    cfg.decoder.num_layers = 2
    for layer in cfg.decoder.layer_cfg.values():
        layer.embed_dims = 64
    cfg.decoder.layer_cfg.ffn_cfg.feedforward_channels = 32
    cfg.bbox_head.update(num_levels=3, first_refined=1, embed_dims=64, **head)
    cfg.test_cfg.max_per_img = 7
    return cfg


@pytest.fixture(scope="module")
def build_small(repository):
    def make(backbone=SMALL_SWIN, name="locformer_swin_t", **head):
        return fill_(build(shrink(read_config(repository, name), backbone, **head))).eval()

    return make


def make_samples(*shapes, boxes=(), scale=1.0):
    """Make data samples of images of these shapes, with the same boxes each."""
    samples = []
    for shape in shapes:
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(scale, scale))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        samples.append(sample)
    return samples


def make_batch(num_sketches=1, shapes=((64, 96), (50, 70)), boxes=((5, 6, 30, 40),)):
    """Make what a data loader hands over."""
    generator = torch.Generator().manual_seed(0)

    def picture(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return dict(
        inputs=[picture(3, *shape) for shape in shapes],
        sketches=[picture(num_sketches, 3, 64, 64) for _ in shapes],
        data_samples=make_samples(*shapes, boxes=boxes),
    )


# ---- fidelity


@pytest.fixture(scope="module")
def published(repository):
    """The released detector, its inputs, and what it computes from them."""
    model = build(read_config(repository, "locformer_swin_t_released")).eval()
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
    loaded = {rename(name, model.rename_rules) for name, *_ in GOLDEN["entries"]}
    assert loaded >= model.state_dict().keys()


def test_our_own_names_are_left_alone(published, repository):
    model, *_ = published
    other = build(read_config(repository, "locformer_uniformer_s"))
    for network in (model, other):
        for name in network.state_dict():
            assert rename(name, network.rename_rules) == name


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


def test_the_released_second_logit_takes_places_and_does_not_count(build_small):
    head = build_small(released=True).bbox_head
    logits, boxes = make_input((1, 1, 7, 2)), torch.rand(1, 1, 7, 4)
    head.forward = lambda *features: (logits, boxes)
    (found,) = head.predict(data_samples=make_samples((64, 96)))
    # 7 places, taken by either logit of 7 objects
    best = logits.flatten().topk(7).indices
    assert 0 < best.remainder(2).sum() < 7
    expected = logits.flatten()[best[best % 2 == 0]].sigmoid()
    torch.testing.assert_close(found.scores, expected)
    assert not found.labels.any()


# ---- the two ways of scoring


def test_released_and_recommended_scores_differ_from_the_first_refined_level_on(build_small):
    released, recommended = build_small(released=True), build_small()
    own = released.state_dict()
    for name, value in recommended.state_dict().items():
        # one logit instead of two: the second is the target's
        own[name] = own[name][1:] if "cls_branches" in name else own[name]
        assert own[name].shape == value.shape
    recommended.load_state_dict(own)
    batch = released.data_preprocessor(make_batch())
    with torch.no_grad():
        (theirs, boxes), (ours, same_boxes) = released(**batch), recommended(**batch)
    torch.testing.assert_close(boxes, same_boxes)
    torch.testing.assert_close(theirs[0, ..., :1], ours[0])
    assert not torch.isclose(theirs[1:, ..., :1], ours[1:]).any()


@pytest.mark.parametrize("released", [True, False])
def test_scores_are_of_refined_objects_with_the_pooled_sketch(build_small, released):
    head = build_small(released=released).bbox_head
    states = [make_input((2, 7, 64), seed) for seed in range(3)]
    references = [torch.rand(2, 7, 4) for _ in range(3)]
    places, sketch = make_input((2, 7, 64), 3), make_input((2, 64, 3, 3), 4)
    tokens, cells = to_tokens(sketch), grid_positions(3, 3, 64, sketch)
    pooled, expected = sketch.amax((2, 3)), []
    for level, objects in enumerate(states):
        if level >= 1:
            objects = head.object_fusions[str(level)](objects, places, tokens, cells)
            tokens = head.sketch_fusions[str(level)](tokens, cells, objects, places)
            if not released:
                pooled = tokens.amax(1)
        shown = head.sketch_branches[level](pooled)[:, None].expand(-1, 7, -1)
        expected.append(head.cls_branches[level](torch.cat([shown, objects], 2)))
    with torch.no_grad():
        logits, _ = head(states, references, places, sketch)
    torch.testing.assert_close(logits, torch.stack(expected).flip(-1))


# ---- training


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        pytest.param(SMALL_SWIN, "locformer_swin_t", id="swin"),
        pytest.param(SMALL_SWIN, "locformer_swin_t_5sketch", id="five_sketches"),
        pytest.param(SMALL_UNIFORMER, "locformer_uniformer_s", id="uniformer"),
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_every_parameter_gets_a_finite_gradient(build_small, backbone, name, precision):
    model = build_small(backbone, name).train()
    num_sketches = 5 if model.sketch_mixer else 1
    batch = model.data_preprocessor(make_batch(num_sketches), True)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        losses = model(**batch, mode="loss")
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lost == []


def test_a_few_steps_of_mmengine_lower_the_loss(build_small):
    model = build_small()
    torch.manual_seed(0)
    model.init_weights()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    losses = [model.train_step(make_batch(), wrapper)["loss"].item() for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("backbone", [SMALL_SWIN, SMALL_UNIFORMER], ids=["swin", "uniformer"])
def test_a_batch_without_any_box_has_a_loss_and_gradients(build_small, backbone):
    model = build_small(backbone).train()
    losses = model(**model.data_preprocessor(make_batch(boxes=()), True), mode="loss")
    assert all(loss.isfinite() for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if "cls" not in name)
    sum(losses.values()).backward()


def test_initial_scores_and_boxes_are_those_of_deformable_detr(build_small):
    model = build_small()
    model.init_weights()
    logits, boxes = model.eval()(make_input((1, 3, 64, 64)), make_input((1, 1, 3, 64, 64)))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.9)
    # box heads begin with zero weights: each level hands the first boxes on
    torch.testing.assert_close(boxes, boxes[:1].expand_as(boxes), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(boxes[0, ..., 2:], torch.full((1, 7, 2), -2.0).sigmoid())


# ---- queries


def test_one_query_for_several_images_is_that_query_for_each(build_small):
    model = build_small()
    images, sketches = make_input((3, 3, 64, 64)), make_input((1, 2, 3, 64, 64), 1)
    with torch.no_grad():
        shared = model(images, sketches)
        repeated = model(images, sketches.repeat(3, 1, 1, 1, 1))
    torch.testing.assert_close(shared, repeated)


def test_several_queries_for_one_image_are_predictions_for_each(build_small):
    model = build_small()
    image, sketches = make_input((1, 3, 64, 96)), make_input((3, 1, 3, 64, 64), 1)
    (sample,) = make_samples((60, 90), boxes=((1, 2, 3, 4),))
    with torch.no_grad():
        results = model(image, sketches, [sample], "predict")
        alone = [model(image, one[None], [sample.new()], "predict")[0] for one in sketches]
    assert len({id(result) for result in results}) == 3
    for together, single in zip(results, alone, strict=True):
        ours, theirs = together.pred_instances, single.pred_instances
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=1e-3, atol=1e-2)
    assert not torch.allclose(results[0].pred_instances.scores, results[1].pred_instances.scores)


@pytest.mark.parametrize("name", ["locformer_swin_t", "locformer_swin_t_5sketch"])
@pytest.mark.parametrize("num_sketches", [1, 2, 5])
def test_any_number_of_sketches_in_any_order_makes_a_query(build_small, name, num_sketches):
    model = build_small(name=name)
    image, sketches = make_input((1, 3, 64, 64)), make_input((1, num_sketches, 3, 64, 64), 1)
    with torch.no_grad():
        logits, boxes = model(image, sketches)
        turned = model(image, sketches.flip(1))
        fewer = model(image, sketches[:, :1])
    torch.testing.assert_close(turned, (logits, boxes), rtol=1e-3, atol=1e-4)
    assert torch.allclose(logits, fewer[0]) == (num_sketches == 1)


@pytest.mark.parametrize("images", [2, 3])
def test_images_and_queries_that_do_not_pair_are_refused(build_small, images):
    with pytest.raises(ValueError, match=f"{images} images and {5 - images} queries"):
        build_small()(make_input((images, 3, 64, 64)), make_input((5 - images, 1, 3, 64, 64)))


def test_other_bad_input_is_refused(build_small, repository):
    model = build_small()
    images, sketches = make_input((1, 3, 64, 64)), make_input((1, 1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\)"):
        model(images, sketches[0])
    with pytest.raises(ValueError, match="mode must be"):
        model(images, sketches, mode="test")
    cfg = shrink(read_config(repository, "locformer_swin_t"))
    cfg.bbox_head.num_levels = 4
    with pytest.raises(ValueError, match="3 levels for 2 decoder layers, got 4"):
        build(cfg)


# ---- images of any size


def test_what_is_padding_does_not_reach_the_decoder(build_small):
    model = build_small()
    sketch = make_input((2, 1, 64, 2, 2), 1)
    images, samples = make_input((2, 3, 96, 128)), make_samples((96, 128), (50, 70))
    with torch.no_grad():
        features, padding = model.extract_feat(images, sketch, samples)
        maps = []
        for x in features.maps:
            scale = torch.nn.functional.interpolate(padding[:, None].float(), x.shape[2:])
            maps.append(x + 9 * scale)
        before, *_ = model.decode(features, padding, sketch)
        after, *_ = model.decode(features._replace(maps=tuple(maps)), padding, sketch)
    torch.testing.assert_close(before, after)


def test_padding_is_told_by_the_samples():
    images = torch.zeros(2, 3, 5, 7)
    padding = find_padding(images, make_samples((5, 7), (2, 3)))
    assert padding[0].sum() == 0
    assert (~padding[1]).nonzero().max(0).values.tolist() == [1, 2]
    assert (~padding[1]).sum() == 6
    assert not find_padding(images, None).any()
    assert not find_padding(images, [DetDataSample(), DetDataSample()]).any()


def test_the_decoder_sees_the_levels_in_a_row():
    maps = tuple(make_input((1, 4, side, side + 1)) for side in (4, 2, 1))
    padding = find_padding(torch.zeros(1, 3, 32, 40), make_samples((16, 40)))
    given = pyramid(maps, padding)
    assert given["value"].shape == (1, 4 * 5 + 2 * 3 + 1 * 2, 4)
    torch.testing.assert_close(given["value"][0, 20 + 4], maps[1][0, :, 1, 1])
    assert given["level_start_index"].tolist() == [0, 20, 26]
    assert given["key_padding_mask"][0].tolist() == [
        i in range(10, 20) or i in range(23, 26) for i in range(28)
    ]
    assert given["valid_ratios"][0].tolist() == [[1, 0.5], [1, 0.5], [1, 1]]


def test_boxes_are_in_the_original_image(build_small):
    model = build_small()
    image, sketches = make_input((1, 3, 64, 96)), make_input((1, 1, 3, 64, 64), 1)
    with torch.no_grad():
        logits, boxes = model(image, sketches, make_samples((60, 90)))
        (result,) = model(image, sketches, make_samples((60, 90), scale=0.5), "predict")
    found = result.pred_instances
    scores, order = logits[-1, 0, :, 0].sigmoid().sort(descending=True)
    corners = bbox_cxcywh_to_xyxy(boxes[-1, 0, order]).clamp(0, 1)
    expected = corners * torch.tensor([90, 60, 90, 60]) / 0.5
    torch.testing.assert_close(found.bboxes, expected)
    torch.testing.assert_close(found.scores, scores)
    assert found.labels.tolist() == [0] * 7


@pytest.mark.parametrize("size", [(33, 47), (100, 64), (5, 5)])
@pytest.mark.parametrize("backbone", [SMALL_SWIN, SMALL_UNIFORMER], ids=["swin", "uniformer"])
def test_any_size_of_image_and_sketch_runs(build_small, size, backbone):
    model = build_small(backbone)
    with torch.no_grad():
        logits, boxes = model(make_input((1, 3, *size)), make_input((1, 1, 3, 40, 70)))
    assert logits.isfinite().all()
    assert ((boxes >= 0) & (boxes <= 1)).all()


def test_the_same_weights_and_input_give_the_same_predictions(build_small):
    model, other = build_small(), build_small()
    model.init_weights()
    other.load_state_dict(model.state_dict())
    batch = make_batch()
    with torch.no_grad():
        first, second = model.eval().val_step(batch), other.val_step(make_batch())
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


# ---- input


def test_sketches_are_normalised_and_batched_beside_the_images(build_small):
    preprocessor = build_small().data_preprocessor
    batch = make_batch(num_sketches=2)
    out = preprocessor(batch)
    assert out["inputs"].shape == (2, 3, 64, 96)
    assert out["sketches"].shape == (2, 2, 3, 64, 64)
    red = (batch["sketches"][1][0, 0].float() - 123.675) / 58.395
    torch.testing.assert_close(out["sketches"][1, 0, 0], red)
    assert [sample.batch_input_shape for sample in out["data_samples"]] == [(64, 96)] * 2


def test_sketches_that_do_not_stack_are_refused(build_small):
    batch = make_batch(num_sketches=2)
    batch["sketches"][1] = batch["sketches"][1][:1]
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\), \(2, 3, 64, 64\)"):
        build_small().data_preprocessor(batch)


# ---- other backbones

BACKBONES = {
    "uniformer": dict(SMALL_UNIFORMER["backbone"]),
    "uniformer_light": dict(type="UniFormerLight", arch="xxs"),
    "swiftformer": dict(type="SwiftFormer", arch="xs"),
    "biformer": dict(type="BiFormer", arch="tiny"),
    "mixformer": dict(type="MixFormer", arch="b0"),
    "acmix_swin": dict(type="ACmixSwin", arch="tiny"),
    "acmix_resnet": dict(type="ACmixResNet", depth=26),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_sketch_guides_each_stage_of_any_backbone(name):
    backbone = dict(BACKBONES[name], out_indices=(1, 2, 3))
    network = fill_(SketchGuided(backbone, embed_dims=64, num_queries=5)).eval()
    sketch = make_input((1, 1, 64, 2, 2), 1).requires_grad_()
    out = network(make_input((1, 3, 64, 96)), None, sketch)
    assert [x.shape[1] for x in out.maps] == [*network.body.channels[1:], 64]
    assert [tuple(x.shape[2:]) for x in out.maps] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert out.tokens.shape == (1, 5, network.token_dims)
    for x in out.maps:
        (grad,) = torch.autograd.grad(x.sin().sum(), sketch, retain_graph=True)
        assert grad.abs().sum() > 0
    for fusion in network.fusions:
        (grad,) = torch.autograd.grad(
            out.maps[-1].sin().sum(), fusion.fusion.linear1.weight, retain_graph=True
        )
        assert grad.abs().sum() > 0


def test_fusions_that_leave_the_map_alone_leave_the_backbone_as_it_is():
    network = fill_(SketchGuided(SMALL_UNIFORMER["backbone"], embed_dims=64)).eval()
    for fusion in network.fusions:
        fusion.forward = lambda x, sketch: x
    images = make_input((1, 3, 64, 96))
    with torch.no_grad():
        maps = network(images, None, None).maps
        torch.testing.assert_close(maps[:3], network.body(images), rtol=0, atol=0)


def test_finding_the_widths_leaves_no_trace():
    body = SketchGuided(BACKBONES["acmix_resnet"] | dict(out_indices=(1, 2, 3))).body.train()
    before = json.dumps({name: x.double().sum().item() for name, x in body.state_dict().items()})
    assert entry_widths(body) == [64, 256, 512, 1024]
    assert body.training
    after = json.dumps({name: x.double().sum().item() for name, x in body.state_dict().items()})
    assert before == after
    assert not any(block._forward_pre_hooks for stage in body.stages for block in stage)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (dict(type="UniFormer"), r"out_indices must be \(1, 2, 3\), got \(0, 1, 2, 3\)"),
        (dict(type="mmdet.ResNet", depth=18), "HierarchicalBackbone, got ResNet"),
    ],
)
def test_backbones_that_cannot_be_guided_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        SketchGuided(backbone)
