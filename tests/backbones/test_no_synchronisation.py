"""No backbone makes the host wait for its device: nothing on the way is read as a number."""

import pytest
import torch
from backbone_cases import BACKBONES, build, make_images, step
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# what must know values before it can go on: `item()`, `bool()`, and shapes that depend on data
READS = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "lift_fresh",  # numbers that become a tensor
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
# on every device each of these reads a value of its argument
READERS = {
    "item": lambda x: x.sum().item(),
    "branch": lambda x: x if x.sum() > 0 else -x,
    "boolean index": lambda x: x[x > 0],
    "nonzero": torch.nonzero,
    "boolean assignment": lambda x: x.clone().index_put_((x > 0,), x),
    "equal": lambda x: torch.equal(x, x),
    "numbers": lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    "another device": lambda x: x.to("meta"),
}


def _tensors(indices):
    """Return the tensors among the indices of an operation."""
    return [x for x in tree_leaves(indices) if isinstance(x, torch.Tensor)]


class ForbidReads(TorchDispatchMode):
    """Raise where an operation reads values, or moves them to another device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(x.dtype == torch.bool for x in _tensors(args[1]))
        moves = name == "_to_copy" and "device" in (kwargs or {})
        if name in READS or masks or moves:
            raise AssertionError(f"{func} reads values")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_read_is_noticed(reader):
    with pytest.raises(AssertionError, match="reads values"), ForbidReads():
        reader(torch.ones(3))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("network", "settings"), BACKBONES)
def test_no_step_waits_for_the_device(network, settings, training):
    model, images = build(network, settings).train(training), make_images(2)
    with ForbidReads():
        step(model, images)


@pytest.mark.parametrize(("network", "settings"), BACKBONES)
def test_no_step_waits_once_tables_are_kept(network, settings):
    model, images = build(network, settings), make_images(2)
    step(model, images)
    with ForbidReads():
        step(model, images)
