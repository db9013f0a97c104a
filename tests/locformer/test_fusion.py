"""Laws of the fusion of sketches: its formulas, the published numbers, sets of sketches."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from golden.fill import compare, fill_, make_input
from helpers import golden_files, output_and_gradients, published_weights

from hybrid_backbones.checkpoints import rename
from hybrid_backbones.layers import to_tokens
from hybrid_backbones.locformer import SwinRAM
from hybrid_backbones.locformer.fusion import (
    CrossFusion,
    SketchMixer,
    StageFusion,
    attention_weights,
    grid_positions,
    set_attention,
    sine_positions,
)

EXACT = dict(rtol=0, atol=1e-10)
((_, STAGES),) = golden_files("locformer_stage_fusion.json")
((_, REFINEMENT),) = golden_files("locformer_refinement.json")
UNUSED = r"(^|\.)(norm[12]|self_attn_sk)\."


def make_tokens(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def attend_by_loops(query, key, value, num_heads):
    """Compute the definition, one query, head and set after another, in float64."""
    batch, num_queries, channels = query.shape
    width = channels // num_heads
    rows = []
    for b in range(batch):
        for n in range(num_queries):
            for h in range(num_heads):
                part = slice(h * width, (h + 1) * width)
                answers = []
                for keys, values in zip(key[b], value[b], strict=True):
                    logits = [query[b, n, part] @ k[part] / math.sqrt(width) for k in keys]
                    weights = torch.stack(logits).exp()
                    answers.append(weights @ values[:, part] / weights.sum())
                rows.append(sum(answers) / len(answers))
    return torch.stack(rows).view(batch, num_queries, channels)


def fuse_by_functions(fusion, x, x_positions, y, y_positions):
    """Compute a fusion with PyTorch's own attention, without dropout."""
    attn = fusion.self_attn
    attended, _ = F.multi_head_attention_forward(
        *(z.transpose(0, 1) for z in (x + x_positions, y + y_positions, y)),
        x.shape[2],
        attn.num_heads,
        attn.in_proj_weight,
        attn.in_proj_bias,
        None,
        None,
        False,
        0.0,
        attn.out_proj.weight,
        attn.out_proj.bias,
    )
    hidden = F.relu(F.linear(attended.transpose(0, 1), *fusion.linear1.parameters()))
    return F.layer_norm(
        x + F.linear(hidden, *fusion.linear2.parameters()),
        x.shape[2:],
        fusion.norm3.weight,
        fusion.norm3.bias,
        1e-5,
    )


@pytest.mark.parametrize("num_sets", [1, 3])
def test_attention_to_sets_is_its_formula_with_gradients(num_sets):
    shapes = (2, 3, 8), (2, num_sets, 5, 8), (2, num_sets, 5, 8)
    inputs = [make_tokens(*shape) for shape in shapes]
    ours = output_and_gradients(lambda *x: set_attention(*x, 2), inputs)
    oracle = output_and_gradients(lambda *x: attend_by_loops(*x, 2), inputs)
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_attention_weights_are_those_of_the_attention():
    query, key = make_tokens(2, 3, 8), make_tokens(2, 2, 5, 8)
    weights = attention_weights(query, key, 1)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **EXACT)
    # values that are the unit vectors give the weights back
    value = F.pad(torch.eye(5, dtype=torch.float64), (0, 3)).expand(2, 2, 5, 8)
    torch.testing.assert_close(
        set_attention(query, key, value, 1)[..., :5], weights.mean(1), **EXACT
    )


@pytest.mark.parametrize("channels", [4, 8, 20])
def test_positions_are_sines_and_cosines_of_rows_then_columns(channels):
    places = grid_positions(2, 3, channels, torch.zeros(0, dtype=torch.float64))
    half = channels // 2
    for index, place in enumerate(places):
        for axis, coordinate in enumerate((index // 3 + 1, index % 3 + 1)):
            for i in range(half):
                angle = coordinate / 10000 ** (2 * (i // 2) / half)
                expected = math.cos(angle) if i % 2 else math.sin(angle)
                assert place[axis * half + i].item() == pytest.approx(expected, abs=1e-12)


def test_positions_of_a_large_map_survive_half_precision():
    exact = grid_positions(1, 400, 8, torch.zeros(0))
    half = grid_positions(1, 400, 8, torch.zeros(0, dtype=torch.bfloat16))
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=2**-8)


def test_fusion_is_its_formula_with_gradients():
    fusion = fill_(CrossFusion(16, hidden_dims=24, num_heads=4)).double().eval()
    x, y = make_tokens(2, 7, 16), make_tokens(2, 5, 16)
    places = make_tokens(1, 7, 16), make_tokens(5, 16)
    inputs = [x, places[0], y, places[1]]
    oracle = output_and_gradients(lambda *z: fuse_by_functions(fusion, *z), inputs)
    for a, b in zip(output_and_gradients(fusion, inputs), oracle, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_stage_fusion_passes_gradcheck():
    fusion = fill_(
        StageFusion(8, 4, num_groups=2, num_heads=2, hidden_dims=6, dropout=0.0)
    ).double()
    images, sketches = make_tokens(1, 8, 2, 3), make_tokens(1, 2, 4, 2, 2)
    assert torch.autograd.gradcheck(fusion, (images, sketches))


def test_stage_fusion_is_the_fusion_of_tokens():
    fusion = fill_(StageFusion(8, 4, num_groups=2, num_heads=2)).double().eval()
    images, sketch = make_tokens(2, 8, 3, 5), make_tokens(2, 4, 2, 3)
    projected = to_tokens(fusion.sketch_norm(fusion.sketch_proj(sketch)))
    expected = fuse_by_functions(
        fusion.fusion,
        to_tokens(images),
        grid_positions(3, 5, 8, images),
        projected,
        grid_positions(2, 3, 8, images),
    )
    ours = fusion(images, sketch[:, None])
    torch.testing.assert_close(ours, expected.transpose(1, 2).view(2, 8, 3, 5), **EXACT)


def test_the_same_sketch_twice_is_one_and_order_does_not_matter():
    fusion = fill_(StageFusion(8, 4, num_groups=2, num_heads=2)).double().eval()
    images, sketches = make_tokens(2, 8, 3, 5), make_tokens(2, 3, 4, 2, 3)
    one, twice = sketches[:, :1], sketches[:, [0, 0]]
    torch.testing.assert_close(fusion(images, one), fusion(images, twice), **EXACT)
    torch.testing.assert_close(
        fusion(images, sketches), fusion(images, sketches[:, [2, 0, 1]]), **EXACT
    )
    assert not torch.allclose(fusion(images, one), fusion(images, sketches))


def test_a_mixer_attends_from_the_mean_to_the_differences():
    mixer = fill_(SketchMixer(8, num_heads=2)).double().eval()
    sketches = make_tokens(2, 3, 8, 2, 3)
    mean = sketches.mean(1)
    places = grid_positions(2, 3, 8, mean)
    others = torch.cat([to_tokens(sketches[:, i] - mean) for i in range(3)], 1)
    expected = fuse_by_functions(
        mixer.fusion, to_tokens(mean), places, others, torch.cat([places] * 3)
    )
    mixed = mixer(sketches)
    torch.testing.assert_close(to_tokens(mixed), expected, **EXACT)
    torch.testing.assert_close(mixer(sketches[:, [1, 2, 0]]), mixed, **EXACT)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_size_runs_under_autocast_near_to_full_precision(size, dtype):
    fusion = fill_(StageFusion(32, 16, num_heads=4)).eval()
    images, sketches = make_input((2, 32, *size)), make_input((2, 2, 16, 3, 3), 1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = fusion(images, sketches)
    assert out.shape == images.shape
    exact = fusion.double()(images.double(), sketches.double())
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_dropout_acts_in_training_only():
    fusion = fill_(StageFusion(32, 16, num_heads=4))
    images, sketches = make_input((1, 32, 4, 4)), make_input((1, 1, 16, 3, 3), 1)
    assert not torch.equal(fusion(images, sketches), fusion(images, sketches))
    fusion.eval()
    assert torch.equal(fusion(images, sketches), fusion(images, sketches))


def test_compiles_without_graph_breaks():
    fusion = fill_(StageFusion(32, 16, num_heads=4)).eval()
    images, sketches = make_input((1, 32, 4, 5)), make_input((1, 2, 16, 3, 3), 1)
    compiled = torch.compile(fusion, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images, sketches), fusion(images, sketches))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossFusion(10, num_heads=4), "num_heads=4, embed_dims=10"),
        (lambda: CrossFusion(8, num_heads=0), "num_heads=0"),
        (lambda: StageFusion(34, num_groups=2, num_heads=2), "embed_dims=34"),
        (lambda: StageFusion(40), "num_groups=32"),
        (lambda: sine_positions(torch.ones(3), torch.ones(3), 6), "channels=6"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def published_block(block, prefix):
    """Load the entries of the refinement's golden file below a prefix, less the unused ones."""
    weights = published_weights(REFINEMENT).items()
    own = {name.removeprefix(prefix): x for name, x in weights if name.startswith(prefix)}
    block.load_state_dict({name: x for name, x in own.items() if not re.search(UNUSED, name)})
    return block.eval()


@pytest.mark.parametrize("case", STAGES["cases"], ids=lambda case: f"stage{case['stage']}")
def test_stage_fusion_is_the_published_one(case):
    fusion = StageFusion(case["shape"][1]).eval()
    weights = {}
    for name, value in published_weights(STAGES).items():
        ours = rename(name, SwinRAM.published.rename)
        if ours.startswith(f"fusions.{case['stage']}.") and not re.search(UNUSED, ours):
            weights[ours.split(".", 2)[2]] = value
    fusion.load_state_dict(weights)
    images = make_input(case["shape"], case["seed"])
    sketches = make_input(case["sketch_shape"], case["sketch_seed"])
    sketches = sketches if sketches.ndim == 5 else sketches[:, None]
    with torch.no_grad():
        compare([fusion(images, sketches)], case["features"])
        if "attention" in case:
            attention = fusion.attention(images, sketches)[:, 0].flatten(3).flatten(1, 2)
            compare([attention], [case["attention"]])
            compare([fusion.project(sketches)[:, 0]], [case["projected_sketch"]])


@pytest.mark.parametrize("level", [3, 6])
def test_refinement_is_the_published_one(level):
    (case,) = (case for case in REFINEMENT["cases"] if case.get("level") == level)
    to_sketch = published_block(CrossFusion(256), f"query_fusion.{level}.")
    to_objects = published_block(CrossFusion(256), f"query_fusion_sketch.{level}.")
    objects, places, sketch = (
        make_input(case[name]["shape"], case[name]["seed"])
        for name in ("objects", "object_pos", "sketch")
    )
    tokens, cells = to_tokens(sketch), grid_positions(7, 7, 256, sketch)
    with torch.no_grad():
        objects = to_sketch(objects, places, tokens, cells)
        compare([objects, to_objects(tokens, cells, objects, places)], case["features"])


def test_fusion_of_several_sketches_is_the_published_one():
    (case,) = (case for case in REFINEMENT["cases"] if case.get("multi_sketch"))
    mixer = SketchMixer(256)
    published_block(mixer.fusion, "multi_sketch_fusion.")
    with torch.no_grad():
        sketches = make_input(case["sketch"]["shape"], case["sketch"]["seed"])
        compare([mixer.eval()(sketches)], case["features"])
