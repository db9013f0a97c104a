"""Laws of local attention: its definition, its borders, and that all implementations agree."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from helpers import devices, mirror, output_and_gradients

from hybrid_backbones.ops import local_attention
from hybrid_backbones.ops.local_attention.api import BACKENDS
from hybrid_backbones.ops.local_attention.borders import reflect

SIZES = [(1, 1), (1, 5), (2, 3), (7, 9), (17, 23)]
# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-11)

backends = pytest.mark.parametrize("backend", ["reference", "tiled"])


def make_inputs(size, stride=1, *, batch=2, num_heads=2, head_dim=3, **kwargs):
    """Make a query, key and value in float64 that require gradients."""
    kwargs = {"dtype": torch.float64, "requires_grad": True, **kwargs}
    query_size = [-(-side // stride) for side in size]
    return [
        torch.randn(batch, num_heads, head_dim, *side, **kwargs)
        for side in (query_size, size, size)
    ]


def attend(kernel_size, **kwargs):
    """Fix the settings of `local_attention`, so that only its tensors are left."""
    return lambda query, key, value: local_attention(query, key, value, kernel_size, **kwargs)


def attend_by_loops(query, key, value, kernel_size, stride=1, dilation=1):
    """Compute the documented formula over rows, columns and neighbours, one after another."""
    *_, head_dim, height, width = key.shape
    offsets = [dilation * (i - kernel_size // 2) for i in range(kernel_size)]
    rows = []
    for y in range(query.shape[3]):
        row = []
        for x in range(query.shape[4]):
            logits, values = [], []
            for i, j in product(offsets, offsets):
                at = mirror(stride * y + i, height), mirror(stride * x + j, width)
                product_ = query[..., y, x] * key[..., at[0], at[1]]
                logits.append(product_.sum(2) / math.sqrt(head_dim))
                values.append(value[..., at[0], at[1]])
            weights = torch.stack(logits).softmax(0)  # (K², B, h)
            row.append((weights[..., None] * torch.stack(values)).sum(0))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("length", range(1, 8))
def test_positions_outside_are_mirrored_as_often_as_needed(length):
    positions = torch.arange(-30, 31)
    expected = [mirror(position, length) for position in positions.tolist()]
    assert reflect(positions, length).tolist() == expected


@backends
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation"),
    [
        ((5, 5), 3, 1, 1),
        ((5, 5), 5, 2, 1),
        ((5, 6), 3, 1, 2),
        ((9, 4), 3, 3, 2),
        ((2, 3), 7, 1, 1),
        ((2, 3), 5, 2, 3),
        ((1, 5), 7, 2, 1),
        ((1, 1), 3, 1, 1),
        ((9, 10), 5, 1, 1),
    ],
    ids=str,
)
def test_the_definition_is_a_loop_over_neighbours(size, kernel_size, stride, dilation, backend):
    settings = dict(stride=stride, dilation=dilation)
    inputs = make_inputs(size, stride)
    actual = output_and_gradients(attend(kernel_size, **settings, backend=backend), inputs)
    expected = output_and_gradients(
        lambda *tensors: attend_by_loops(*tensors, kernel_size, **settings), inputs
    )
    torch.testing.assert_close(actual, expected, **EXACT)


@backends
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation"),
    [((3, 4), 3, 1, 1), ((3, 4), 3, 2, 1), ((4, 5), 3, 1, 2), ((3, 3), 5, 2, 2), ((1, 2), 3, 1, 1)],
    ids=str,
)
def test_gradients_are_those_of_finite_differences(size, kernel_size, stride, dilation, backend):
    inputs = make_inputs(size, stride, batch=1, head_dim=2)
    function = attend(kernel_size, stride=stride, dilation=dilation, backend=backend)
    assert torch.autograd.gradcheck(function, inputs)


@devices
@pytest.mark.parametrize("dilation", [1, 2, 3], ids="dilation{}".format)
@pytest.mark.parametrize("stride", [1, 2, 3], ids="stride{}".format)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7], ids="kernel{}".format)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_give_what_the_reference_gives(size, kernel_size, stride, dilation, device):
    settings = dict(stride=stride, dilation=dilation)
    inputs = make_inputs(size, stride, device=device)
    tiled = output_and_gradients(attend(kernel_size, **settings, backend="tiled"), inputs)
    reference = output_and_gradients(attend(kernel_size, **settings, backend="reference"), inputs)
    torch.testing.assert_close(tiled, reference, **EXACT)


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_tiles_err_at_most_twice_as_much_as_the_reference(stride, dilation, dtype, device):
    settings = dict(stride=stride, dilation=dilation)
    inputs = make_inputs((17, 23), stride, head_dim=16, dtype=dtype, device=device)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    tiled = output_and_gradients(attend(7, **settings, backend="tiled"), inputs)
    reference = output_and_gradients(attend(7, **settings, backend="reference"), inputs)
    exact = output_and_gradients(attend(7, **settings, backend="reference"), exact_inputs)
    for ours, theirs, truth in zip(tiled, reference, exact, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        rounding_step = torch.finfo(dtype).eps * truth.abs().max()
        budget = 2 * (theirs - truth).abs().max() + rounding_step
        assert (ours - truth).abs().max() <= budget


@devices
def test_the_default_backend_gives_what_the_reference_gives(device):
    inputs = make_inputs((9, 12), device=device)
    chosen = output_and_gradients(attend(5), inputs)
    reference = output_and_gradients(attend(5, backend="reference"), inputs)
    torch.testing.assert_close(chosen, reference, **EXACT)


@pytest.mark.parametrize(
    ("backend", "runs"), [("reference", "reference"), ("tiled", "tiled"), (None, "tiled")]
)
def test_a_named_backend_runs_and_none_takes_the_fastest(monkeypatch, backend, runs):
    for name in BACKENDS:
        monkeypatch.setitem(BACKENDS, name, lambda *_, name=name: name)
    assert local_attention(*make_inputs((5, 5)), 3, backend=backend) == runs


@backends
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_kernel_of_one_returns_the_value(stride, backend):
    query, key, value = make_inputs((7, 10), stride)
    out = local_attention(query, key, value, 1, stride=stride, backend=backend)
    torch.testing.assert_close(out, value[..., ::stride, ::stride], **EXACT)


@backends
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_constant_keys_average_the_mirrored_neighbourhood(kernel_size, stride, backend):
    query, key, value = make_inputs((7, 9), stride)
    out = local_attention(
        query, torch.ones_like(key), value, kernel_size, stride=stride, backend=backend
    )
    padded = F.pad(value.flatten(0, 1), [kernel_size // 2] * 4, mode="reflect")
    expected = F.avg_pool2d(padded, kernel_size, stride).view_as(out)
    torch.testing.assert_close(out, expected, **EXACT)


@backends
def test_a_vector_added_to_all_keys_changes_nothing(backend):
    query, key, value = make_inputs((6, 11))
    shifted = key + torch.randn_like(key[..., :1, :1])
    out = local_attention(query, shifted, value, 5, backend=backend)
    torch.testing.assert_close(out, local_attention(query, key, value, 5, backend=backend), **EXACT)


@backends
def test_a_key_far_above_its_neighbours_takes_all(backend):
    query, key, value = make_inputs((10, 10))
    key = torch.zeros_like(key)
    key[..., 4, 5] = 1e3 * query[..., 4, 4]
    out = local_attention(query, key, value, 3, backend=backend)
    torch.testing.assert_close(out[..., 4, 4], value[..., 4, 5], **EXACT)


@backends
def test_transposed_maps_give_the_transposed_output(backend):
    inputs = make_inputs((6, 11), 2)
    settings = dict(stride=2, dilation=2, backend=backend)
    transposed = local_attention(*[x.mT for x in inputs], 3, **settings)
    torch.testing.assert_close(transposed.mT, local_attention(*inputs, 3, **settings), **EXACT)


@backends
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 2), (3, 1)])
def test_a_crop_changes_nothing_away_from_its_borders(stride, dilation, backend):
    query, key, value = make_inputs((23, 26), stride)
    settings = dict(stride=stride, dilation=dilation, backend=backend)
    top, left = 3 * stride, 2 * stride
    cropped = local_attention(
        query[..., 3:, 2:], key[..., top:, left:], value[..., top:, left:], 5, **settings
    )
    full = local_attention(query, key, value, 5, **settings)
    inner = -(-2 * dilation // stride)  # queries nearer to the cut see mirrored pixels
    torch.testing.assert_close(
        cropped[..., inner:, inner:], full[..., 3 + inner :, 2 + inner :], **EXACT
    )


@backends
def test_a_row_of_a_batch_is_the_single_image(backend):
    inputs = make_inputs((7, 10), batch=3)
    batch = local_attention(*inputs, 5, backend=backend)
    for i in range(3):
        single = local_attention(*[x[i : i + 1] for x in inputs], 5, backend=backend)
        torch.testing.assert_close(batch[i : i + 1], single, **EXACT)


@devices
@backends
def test_an_empty_batch_gives_empty_gradients(backend, device):
    inputs = make_inputs((9, 10), 2, batch=0, device=device)
    out, *gradients = output_and_gradients(attend(3, stride=2, backend=backend), inputs)
    assert out.shape == (0, 2, 3, 5, 5)
    assert [g.shape for g in gradients] == [x.shape for x in inputs]


@devices
@backends
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda x: x.mT.contiguous().mT, id="transposed"),
        pytest.param(lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2), id="channels last"),
        pytest.param(lambda x: x.repeat_interleave(2, -1)[..., ::2], id="sliced"),
        pytest.param(lambda x: x[:1].expand_as(x), id="expanded"),
    ],
)
def test_the_layout_in_memory_does_not_matter(layout, backend, device):
    inputs = make_inputs((7, 10), device=device)
    assert not any(layout(x).is_contiguous() for x in inputs)
    function = attend(3, backend=backend)
    actual = output_and_gradients(lambda *tensors: function(*map(layout, tensors)), inputs)
    expected = output_and_gradients(
        lambda *tensors: function(*(layout(x).contiguous() for x in tensors)), inputs
    )
    torch.testing.assert_close(actual, expected, **EXACT)


@backends
def test_it_compiles_into_one_graph(backend):
    torch.compiler.reset()
    inputs = make_inputs((9, 10), 2)
    function = attend(3, stride=2, dilation=2, backend=backend)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(compiled, inputs)
    torch.testing.assert_close(actual, output_and_gradients(function, inputs), **EXACT)


MAP = torch.zeros(1, 2, 3, 5, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kernel_size=4), "kernel_size=4"),
        (dict(kernel_size=0), "kernel_size=0"),
        (dict(kernel_size=-3), "kernel_size=-3"),
        (dict(stride=0), "stride=0"),
        (dict(dilation=0), "dilation=0"),
        (dict(dilation=-1), "dilation=-1"),
        (dict(key=MAP[0], value=MAP[0]), r"key and value .* \(2, 3, 5, 5\)"),
        (dict(value=MAP[..., 1:]), r"key and value .* \(1, 2, 3, 5, 4\)"),
        (dict(key=MAP[:, :1]), r"key and value .* \(1, 1, 3, 5, 5\)"),
        (dict(query=MAP[0]), r"query .* got \(2, 3, 5, 5\)"),
        (dict(query=MAP[:, :1]), r"query .* got \(1, 1, 3, 5, 5\)"),
        (dict(query=MAP[..., 1:]), r"query must have shape \(1, 2, 3, 5, 5\)"),
        (dict(stride=2), r"query must have shape \(1, 2, 3, 3, 3\).*stride=2"),
        (dict.fromkeys(["query", "key", "value"], MAP[:, :, :0]), r"empty.*\(1, 2, 0, 5, 5\)"),
        (dict.fromkeys(["query", "key", "value"], MAP[:, :0]), r"empty.*\(1, 0, 3, 5, 5\)"),
        (dict.fromkeys(["query", "key", "value"], MAP[..., :0]), r"empty.*\(1, 2, 3, 5, 0\)"),
        (dict.fromkeys(["query", "key", "value"], MAP.int()), "dtype.*int32"),
        (dict(key=MAP.half()), "dtype.*float32, torch.float16"),
        (dict(value=MAP.double()), "dtype.*float32 and torch.float64"),
        (dict(value=MAP.to("meta")), "device.*meta"),
        (dict(backend="fastest"), "backend.*'reference', 'tiled'.*'fastest'"),
    ],
    ids=[
        "even kernel",
        "kernel of zero",
        "negative kernel",
        "stride",
        "dilation",
        "negative dilation",
        "maps without batch",
        "smaller value",
        "fewer key heads",
        "query without batch",
        "fewer query heads",
        "smaller query",
        "query not strided",
        "no channels",
        "no heads",
        "no columns",
        "integers",
        "key of another dtype",
        "value of another dtype",
        "two devices",
        "backend",
    ],
)
def test_a_bad_argument_is_named(changes, message):
    arguments = dict(query=MAP, key=MAP, value=MAP, kernel_size=3) | changes
    with pytest.raises(ValueError, match=message):
        local_attention(**arguments)
