"""Laws of the choice between implementations: what is chosen is logged once, with the reason."""

import logging
from functools import partial

import pytest
import torch

from hybrid_backbones.ops import MixingAttention, fastest, local_attention, triton_support
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


FASTEST = {"local_attention": {"float32": {"forward": "flex", "forward_backward": "triton"}}}


@pytest.fixture
def gpu(monkeypatch):
    """Let a CPU be what kernels are compiled for."""
    monkeypatch.setattr(triton_support, "is_fast", lambda device: True)
    monkeypatch.setattr(fastest, "FASTEST", FASTEST)


def choose(dtype=torch.float32, *, requires_grad=False, **obstacles):
    tensors = [torch.zeros(1, dtype=dtype, requires_grad=requires_grad) for _ in range(3)]
    found = {name: partial(obstacles.get, name) for name in ("triton", "flex")}
    return choose_backend("local_attention", None, "tiled", tensors, found, exported="plain")


def test_what_was_measured_to_be_the_fastest_is_chosen(gpu, log):
    assert choose() == "flex"
    assert choose(requires_grad=True) == "triton"
    with torch.no_grad():
        assert choose(requires_grad=True) == "flex"
    assert log.messages == [
        f"local_attention runs as {name!r}: it was measured to be the fastest on cpu"
        for name in ("flex", "triton")
    ]


def test_kernels_give_way_to_what_torch_func_transforms(gpu, log):
    chosen = []

    def loss(x):
        chosen.append(choose())
        return x.square().sum()

    torch.func.grad(loss)(torch.ones(2))
    assert chosen == ["tiled"]
    assert log.messages == [
        "local_attention runs as 'tiled': torch.func does not transform kernels"
    ]


def test_what_cannot_run_or_was_not_measured_is_not_chosen(gpu, log):
    assert choose(flex="too old") == "tiled"
    assert log.messages == ["local_attention runs as 'tiled': too old"]
    assert choose(triton="too old") == "flex"
    assert choose(torch.float64) == "tiled"


def test_a_named_implementation_runs_or_says_why_not():
    def choose_named(reason):
        named = dict(triton=lambda: reason)
        return choose_backend("local_attention", "triton", "tiled", (), named, exported="plain")

    assert choose_named(None) == "triton"
    with pytest.raises(ValueError, match="backend='triton' cannot run: no GPU"):
        choose_named("no GPU")


def test_kernels_need_the_header_of_python(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "/opt/cc")
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: dict(include=str(tmp_path)))
    find = triton_support._missing_for_builds.__wrapped__
    assert find() == f"Triton needs {tmp_path / 'Python.h'}: install python3-dev"
    (tmp_path / "Python.h").touch()
    assert find() is None


@pytest.mark.parametrize(
    ("programs", "cc", "reason"),
    [
        ((), None, "Triton needs a C compiler: install gcc or clang, or set the variable CC"),
        (("gcc",), None, None),
        (("clang",), None, None),
        ((), "/opt/cc", None),
    ],
)
def test_kernels_that_triton_cannot_build_are_not_chosen(
    programs, cc, reason, tmp_path, monkeypatch
):
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    monkeypatch.setattr(triton_support, "INSTALLED", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: dict(include=str(tmp_path)))
    (tmp_path / "Python.h").touch()
    for name in programs:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if cc:
        monkeypatch.setenv("CC", cc)
    triton_support._missing_for_builds.cache_clear()
    try:
        found = triton_support.unsupported_reason(torch.device("cuda"), torch.float32)
    finally:
        triton_support._missing_for_builds.cache_clear()
    assert found == reason


def test_kernels_are_not_chosen_on_the_gpus_of_other_makers(monkeypatch):
    # they are called cuda, too
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    monkeypatch.setattr(triton_support, "INSTALLED", True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    found = triton_support.unsupported_reason(torch.device("cuda"), torch.float32)
    assert found.startswith("it needs a CUDA device")
