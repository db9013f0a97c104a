"""Laws of what LocFormer takes: images of any size, their padding, sketches beside them."""

import pytest
import torch
from golden.fill import make_input
from locformer_cases import SMALL_SWIN, SMALL_UNIFORMER, build_small, make_batch, make_samples
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

from hybrid_backbones.locformer.detector import find_padding, flatten_levels


def test_what_is_padding_does_not_reach_the_decoder():
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
    given = flatten_levels(maps, padding)
    assert given["value"].shape == (1, 4 * 5 + 2 * 3 + 1 * 2, 4)
    torch.testing.assert_close(given["value"][0, 20 + 4], maps[1][0, :, 1, 1])
    assert given["level_start_index"].tolist() == [0, 20, 26]
    assert given["key_padding_mask"][0].tolist() == [
        i in range(10, 20) or i in range(23, 26) for i in range(28)
    ]
    assert given["valid_ratios"][0].tolist() == [[1, 0.5], [1, 0.5], [1, 1]]


def test_boxes_are_in_the_original_image():
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
def test_any_size_of_image_and_sketch_runs(size, backbone):
    model = build_small(backbone)
    with torch.no_grad():
        logits, boxes = model(make_input((1, 3, *size)), make_input((1, 1, 3, 40, 70)))
    assert logits.isfinite().all()
    assert ((boxes >= 0) & (boxes <= 1)).all()


def test_the_same_weights_and_input_give_the_same_predictions():
    model, other = build_small(), build_small()
    model.init_weights()
    other.load_state_dict(model.state_dict())
    batch = make_batch()
    with torch.no_grad():
        first, second = model.eval().val_step(batch), other.val_step(make_batch())
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


def test_sketches_are_normalised_and_batched_beside_the_images():
    preprocessor = build_small().data_preprocessor
    batch = make_batch(num_sketches=2)
    out = preprocessor(batch)
    assert out["inputs"].shape == (2, 3, 64, 96)
    assert out["sketches"].shape == (2, 2, 3, 64, 64)
    red = (batch["sketches"][1][0, 0].float() - 123.675) / 58.395
    torch.testing.assert_close(out["sketches"][1, 0, 0], red)
    assert [sample.batch_input_shape for sample in out["data_samples"]] == [(64, 96)] * 2


def test_sketches_that_do_not_stack_are_refused():
    batch = make_batch(num_sketches=2)
    batch["sketches"][1] = batch["sketches"][1][:1]
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\), \(2, 3, 64, 64\)"):
        build_small().data_preprocessor(batch)
