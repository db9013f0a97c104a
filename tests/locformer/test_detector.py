"""Laws of LocFormer: its two ways of scoring, training, queries of several kinds."""

import pytest
import torch
from golden.fill import make_input
from locformer_cases import (
    SMALL_SWIN,
    SMALL_UNIFORMER,
    build,
    build_small,
    make_batch,
    make_samples,
    read_config,
    shrink,
)
from mmengine.optim import OptimWrapper

from hybrid_backbones.layers import to_tokens
from hybrid_backbones.locformer.detector import match_batches
from hybrid_backbones.locformer.fusion import grid_positions

pytestmark = pytest.mark.upstream

# ---- the two ways of scoring


def test_the_released_second_logit_takes_places_and_does_not_count():
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


def test_released_and_recommended_scores_differ_from_the_first_refined_level_on():
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
def test_scores_are_of_refined_objects_with_the_pooled_sketch(released):
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
def test_every_parameter_gets_a_finite_gradient(backbone, name, precision):
    model = build_small(backbone, name).train()
    num_sketches = 5 if model.sketch_mixer else 1
    batch = model.data_preprocessor(make_batch(num_sketches), True)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        losses = model(**batch, mode="loss")
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lost == []


def test_a_few_steps_of_mmengine_lower_the_loss():
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
def test_a_batch_without_any_box_has_a_loss_and_gradients(backbone):
    model = build_small(backbone).train()
    losses = model(**model.data_preprocessor(make_batch(boxes=()), True), mode="loss")
    assert all(loss.isfinite() for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if "cls" not in name)
    sum(losses.values()).backward()


def test_initial_scores_and_boxes_are_those_of_deformable_detr():
    model = build_small()
    model.init_weights()
    logits, boxes = model.eval()(make_input((1, 3, 64, 64)), make_input((1, 1, 3, 64, 64)))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.9)
    # box heads begin with zero weights: each level hands the first boxes on
    torch.testing.assert_close(boxes, boxes[:1].expand_as(boxes), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(boxes[0, ..., 2:], torch.full((1, 7, 2), -2.0).sigmoid())


def test_reference_points_begin_all_over_the_image():
    model = build(shrink(read_config("locformer_swin_t"), dict(SMALL_SWIN, num_queries=100)))
    model.init_weights()
    with torch.no_grad():
        places = model.position_proj(model.backbone.det_pos_embed)
        centres = model.reference_points(places).sigmoid()
    assert centres.std(1).min() > 0.2
    assert (centres.mean(1) - 0.5).abs().max() < 0.1


# ---- queries


def test_one_query_for_several_images_is_that_query_for_each():
    model = build_small()
    images, sketches = make_input((3, 3, 64, 64)), make_input((1, 2, 3, 64, 64), 1)
    with torch.no_grad():
        shared = model(images, sketches)
        repeated = model(images, sketches.repeat(3, 1, 1, 1, 1))
    torch.testing.assert_close(shared, repeated)


def test_several_queries_for_one_image_are_predictions_for_each():
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
def test_any_number_of_sketches_in_any_order_makes_a_query(name, num_sketches):
    model = build_small(name=name)
    image, sketches = make_input((1, 3, 64, 64)), make_input((1, num_sketches, 3, 64, 64), 1)
    with torch.no_grad():
        logits, boxes = model(image, sketches)
        turned = model(image, sketches.flip(1))
        fewer = model(image, sketches[:, :1])
    torch.testing.assert_close(turned, (logits, boxes), rtol=1e-3, atol=1e-4)
    assert torch.allclose(logits, fewer[0]) == (num_sketches == 1)


@pytest.mark.parametrize("images", [2, 3])
def test_images_and_queries_that_do_not_pair_are_refused(images):
    with pytest.raises(ValueError, match=f"{images} images and {5 - images} queries"):
        build_small()(make_input((images, 3, 64, 64)), make_input((5 - images, 1, 3, 64, 64)))


def test_other_bad_input_is_refused():
    model = build_small()
    images, sketches = make_input((1, 3, 64, 64)), make_input((1, 1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\)"):
        model(images, sketches[0])
    with pytest.raises(ValueError, match="mode must be"):
        model(images, sketches, mode="test")
    cfg = shrink(read_config("locformer_swin_t"))
    cfg.bbox_head.num_levels = 4
    with pytest.raises(ValueError, match="3 levels for 2 decoder layers, got 4"):
        build(cfg)


@pytest.mark.parametrize("number", [2, 4])
def test_data_samples_that_belong_to_no_image_are_refused(number):
    with pytest.raises(ValueError, match=f"each of 3 images and queries.* got {number}"):
        match_batches(torch.zeros(3, 3, 8, 8), torch.zeros(3, 1, 3, 4, 4), [None] * number)
