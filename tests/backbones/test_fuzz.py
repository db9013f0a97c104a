"""Backbones keep their laws on random sizes, batches, layouts and dtypes, for a bounded time.

``HB_FUZZ_SECONDS=600 HB_FUZZ_SEED=$RANDOM python -m pytest tests/backbones/test_fuzz.py`` looks for
longer, elsewhere. A failure prints its seed and its case; ``check(Case(...))`` repeats it alone.
"""

import copy
import os
import random
import time
from functools import cache
from typing import NamedTuple

import pytest
import torch
from backbone_cases import ALL_KINDS, build, map_sides
from layouts import LAYOUTS, has_a_format
from operator_cases import make_uneven
from torch.nn.modules.batchnorm import _BatchNorm

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("HB_FUZZ_SECONDS", 20))
SEED = int(os.environ.get("HB_FUZZ_SEED", 0))
NETWORKS = {case.id: case.values for case in ALL_KINDS}
# of float32, or of autocast
DTYPES = ("float32", "bfloat16", "float16")


class Case(NamedTuple):
    """One run; its text, as printed, makes it again."""

    network: str
    batch: int
    height: int
    width: int
    layout: str
    dtype: str
    training: bool
    seed: int


def draw_case(network, source):
    sides = [source.choice((1, 2, 31, 32, 33, *[source.randint(1, 100)] * 5)) for _ in range(2)]
    return Case(
        network,
        source.randint(1, 3),
        *sides,
        source.choice(list(LAYOUTS)),
        source.choice(DTYPES),
        source.random() < 0.5,
        source.randrange(10**6),
    )


@cache
def make_network(name):
    """Build a network with uneven weights and the running statistics that belong to them."""
    model = make_uneven(build(*NETWORKS[name])).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0
    model(torch.randn(4, 3, 64, 64))
    return model


def check(case):
    """Check the laws that every backbone keeps, whatever it is given."""
    model = copy.deepcopy(make_network(case.network))
    torch.manual_seed(case.seed)
    images = LAYOUTS[case.layout](case.batch, 3, case.height, case.width)
    check_rows(copy.deepcopy(model).double().eval(), images.double())
    # in bfloat16 oneDNN leaves values of outputs and gradients unwritten where a map is one wide
    by_onednn = case.dtype != "bfloat16" or map_sides(model, case.width)[-1] > 1
    with torch.backends.mkldnn.flags(enabled=by_onednn):
        check_step(model.train(case.training), images, case)


def check_rows(model, images):
    """Each row of a batch, in any layout, is what the single image gives, in float64."""
    with torch.no_grad():
        outs = model(images)
        for i in range(len(images)):
            single = model(images[i : i + 1].contiguous())
            torch.testing.assert_close(tuple(out[i : i + 1] for out in outs), single)


def check_step(model, images, case):
    """Outputs are finite maps as declared, and every parameter gets a finite gradient."""
    sides = list(zip(*(map_sides(model, n) for n in images.shape[2:]), strict=True))
    if len(images) * sides[-1][0] * sides[-1][1] == 1:
        model.eval()  # PyTorch does not normalise a single value by itself
    dtype = getattr(torch, case.dtype)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        outs = model(images)
    shapes = [(len(images), c, *side) for c, side in zip(model.out_channels, sides, strict=True)]
    assert [tuple(out.shape) for out in outs] == shapes
    assert all(has_a_format(out) for out in outs)
    assert all(out.isfinite().all() for out in outs)
    # few values normalised together have steep gradients, which float16 holds at a small scale
    (1e-4 * sum(out.float().square().mean() for out in outs)).backward()
    wrong = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not wrong, f"no finite gradient of {wrong}"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_backbone_keeps_its_laws_on_random_images(network):
    end, source = time.monotonic() + SECONDS / len(NETWORKS), random.Random(f"{SEED} {network}")
    while True:  # at least once
        case = draw_case(network, source)
        try:
            check(case)
        except Exception as error:
            raise AssertionError(f"HB_FUZZ_SEED={SEED}: check({case})") from error
        if time.monotonic() > end:
            break
