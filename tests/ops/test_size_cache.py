"""Laws of what is kept by size: the same for every caller, made once, and never of a trace."""

import copy
import pickle

import pytest
import torch
from helpers import output_and_gradients
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hybrid_backbones.ops import ACmix, ACmixWindow, BiLevelRoutingAttention2d
from hybrid_backbones.ops.size_cache import MAX_TABLES, cached_by_size

CPU = torch.device("cpu")
# each keeps a table; sizes below are no multiples of windows, so that there are masks
OPERATORS = {
    "acmix": lambda: ACmix(8, 8, attn_kernel_size=5),
    "acmix-stride": lambda: ACmix(8, 8, attn_kernel_size=3, stride=2),
    "acmix-window": lambda: ACmixWindow(8, 2, window_size=4, shift=2),
    "routing": lambda: BiLevelRoutingAttention2d(8, 2, 3, 2),
}
each_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)


def make_counting():
    """Return a kept table of a size, and the list of the sizes that it was made for."""
    made = []

    @cached_by_size
    def count_up(length, *, device):
        made.append(length)
        return torch.arange(length, device=device)

    return count_up, made


def run(module, x):
    """Return the output and the gradients of input and parameters."""
    return output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])


def test_a_table_is_made_once_a_size():
    count_up, made = make_counting()
    first = [count_up(length, device=CPU) for length in (3, 5, 3)]
    assert made == [3, 5]
    assert first[0] is first[2]
    assert [x.tolist() for x in first] == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2]]


def test_a_transform_of_torch_func_keeps_nothing():
    count_up, made = make_counting()

    def loss(x):
        return (x * count_up(3, device=CPU)).sum()

    x = torch.ones(3)
    twice = torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)
    assert twice.tolist() == [0, 0, 0]
    assert torch.func.grad(loss)(x).tolist() == [0, 1, 2]
    # what it made is wrapped, and would fail in other transforms
    assert count_up(3, device=CPU).data_ptr()
    assert made == [3] * 3


def test_the_sizes_used_longest_ago_are_forgotten():
    count_up, made = make_counting()
    for length in range(MAX_TABLES + 1):
        count_up(length, device=CPU)
    count_up(MAX_TABLES, device=CPU)
    assert made == [*range(MAX_TABLES + 1)]
    count_up(0, device=CPU)
    assert made[-1] == 0


def test_each_device_has_its_own():
    count_up, made = make_counting()
    assert count_up(3, device=torch.device("meta")).is_meta
    assert not count_up(3, device=CPU).is_meta
    assert made == [3, 3]


def test_what_inference_made_is_for_training():
    count_up, made = make_counting()
    with torch.inference_mode():
        table = count_up(3, device=CPU)
    assert not table.is_inference()
    assert made == [3]


def test_fake_tensors_are_neither_kept_nor_given_kept_ones():
    count_up, made = make_counting()
    kept = count_up(3, device=CPU)
    with FakeTensorMode():
        assert all(isinstance(count_up(length, device=CPU), FakeTensor) for length in (3, 4))
    assert made == [3, 3, 4]
    assert count_up(3, device=CPU) is kept
    assert type(count_up(4, device=CPU)) is torch.Tensor


def test_a_compiled_function_keeps_nothing():
    torch.compiler.reset()
    count_up, made = make_counting()
    compiled = torch.compile(lambda x: x + count_up(3, device=CPU), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0]))
    made.clear()
    assert type(count_up(3, device=CPU)) is torch.Tensor
    assert made == [3]


@each_operator
def test_other_sizes_dtypes_and_modes_in_between_change_nothing(make):
    module = make().double()
    small, large = (
        torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
        for size in ((7, 9), (10, 13))
    )
    with torch.inference_mode():
        first = module(small)
    expected = run(module, small)
    torch.testing.assert_close(expected[0], first.clone())
    run(module, large)
    run(copy.deepcopy(module).float(), small.detach().float().requires_grad_())
    copy.deepcopy(module).to("meta")(small.to("meta"))
    torch.testing.assert_close(run(module, small), expected, rtol=0, atol=0)


@each_operator
def test_a_batch_of_another_length_gets_its_own_rows(make):
    module = make().double().eval()
    x = torch.randn(3, 8, 7, 9, dtype=torch.float64)
    module(x[:2])
    torch.testing.assert_close(module(x), torch.cat([module(row[None]) for row in x]))


@each_operator
def test_tables_are_no_part_of_a_module(make):
    module = make()
    entries = list(module.state_dict())
    before = {name for part in module.modules() for name in vars(part)}
    module(torch.randn(1, 8, 7, 9))
    assert list(module.state_dict()) == entries
    assert {name for part in module.modules() for name in vars(part)} == before
    pickle.dumps(copy.deepcopy(module))
