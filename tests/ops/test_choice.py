"""Laws of the choice between implementations: what is chosen is logged once, with the reason."""

import logging

import pytest
import torch

from hybrid_backbones.ops import MixingAttention, local_attention, triton_support
from hybrid_backbones.ops.choice import _log_once, choose_backend


@pytest.fixture(autouse=True)
def log(caplog):
    _log_once.cache_clear()
    with caplog.at_level(logging.DEBUG, "hybrid_backbones"):
        yield caplog


def test_a_choice_is_logged_once_with_its_reason(log):
    maps = torch.randn(3, 1, 1, 4, 5, 5)
    for _ in range(2):
        local_attention(*maps, kernel_size=3)
        MixingAttention(16, 2)(torch.randn(1, 16, 7, 7))
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        ("DEBUG", "local_attention runs as 'tiled': Triton kernels are not the default on cpu"),
        ("DEBUG", "window_attention runs as 'chunked': windows stay in the caches of a CPU"),
    ]


def test_a_name_from_the_caller_is_no_choice(log):
    local_attention(*torch.randn(3, 1, 1, 4, 5, 5), kernel_size=3, backend="reference")
    assert not log.records


@pytest.mark.parametrize(
    ("obstacle", "chosen", "reason"),
    [
        (None, "triton", "compiled kernels run on cpu"),
        ("a head is too wide", "tiled", "a head is too wide"),
    ],
)
def test_kernels_are_chosen_where_they_are_fast_and_can_run(
    monkeypatch, log, obstacle, chosen, reason
):
    monkeypatch.setattr(triton_support, "is_fast", lambda device: True)
    cpu = torch.device("cpu")
    choice = choose_backend("attention", None, "tiled", cpu, lambda: obstacle, exported="plain")
    assert choice == chosen
    assert log.messages == [f"attention runs as {chosen!r}: {reason}"]
