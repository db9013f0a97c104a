"""Laws of the benchmark: what its probes measure, and the steps whose figures make its rows."""

import os
import sys

import pytest
import torch
from helpers import devices
from mmseg.models.backbones import ResNetV1c
from torch import nn

from hybrid_backbones.benchmark import training
from hybrid_backbones.benchmark.implementations import CUDA_ONLY
from hybrid_backbones.benchmark.measure import measure_backbone, measure_operator
from hybrid_backbones.benchmark.probes import count_macs, extra_memory, run_alone, time_call
from hybrid_backbones.benchmark.settings import Settings
from hybrid_backbones.benchmark.subjects import BACKBONES, OPERATORS
from hybrid_backbones.benchmark.training import (
    NUM_OBJECTS,
    baseline_of,
    benchmark_layers,
    benchmark_training,
    measure_training,
    random_batch,
)
from hybrid_backbones.ops import local_attention


def fill(mebibytes):
    return bytearray(b"x") * (mebibytes * 2**20)


def probe(mebibytes, *, before=0):
    """Measure an allocation of known size, after another one that is given back."""
    fill(before)
    return extra_memory(lambda: fill(mebibytes))


def die():
    os._exit(1)


class NeighbourAttention(nn.Module):
    """Attend from each pixel of an image to K×K pixels, channel by channel."""

    def forward(self, x):
        heads = x[:, :, None]  # (B, h, d, H, W)
        return local_attention(heads, heads, heads, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of a process")
@pytest.mark.parametrize("before", [pytest.param(0, marks=pytest.mark.exhaustive), 300])
def test_memory_probe_measures_an_allocation(before):
    assert run_alone(probe, 120, before=before) == pytest.approx(120, abs=3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_probe_measures_an_allocation_on_cuda():
    grow = lambda: torch.empty(120, 2**20, dtype=torch.uint8, device="cuda")  # noqa: E731
    assert extra_memory(grow, device="cuda") == 120


def test_timer_counts_the_repeats_after_the_warm_up():
    calls = []
    times = time_call(lambda: calls.append(len(calls)), repeats=3)
    assert len(calls) == 5
    assert 0 < times["min"] <= times["median"] <= times["max"]


def test_process_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="the process died"):
        run_alone(die)


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 16 * 24 * 3 * 8 * 9),
        # query by key and weight by value, for each of the neighbours
        (NeighbourAttention(), 16 * 24 * 3 * 5**2 * 2),
    ],
    ids=["convolution", "local attention"],
)
def test_macs_are_those_of_the_definition(model, macs):
    assert count_macs(model, (1, 3, 16, 24)) == macs


def test_macs_and_parameters_of_resnet_are_the_published_ones():
    # 25.56 M and 4.09 G with torchvision's classifier, a layer of 2048 × 1000 and its bias
    model = BACKBONES["ResNet-50"]()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 - 2_049_000
    assert count_macs(model, (1, 3, 224, 224)) == pytest.approx(4.09e9 - 2.048e6, rel=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_an_operator_compute_the_same(batch, dtype):
    settings = Settings((9, 12), batch=batch, dtype=dtype)
    for implementations in OPERATORS.values():
        outs = []
        for implementation, make in implementations.items():
            if implementation in CUDA_ONLY:
                continue
            torch.manual_seed(0)
            function, inputs = make(settings)
            assert all(x.dtype == getattr(torch, dtype) for x in inputs)
            outs.append(function(*inputs))
            assert outs[-1].shape[0] == batch
        # within the steps that a dtype can make at the size of the outputs
        tolerance = 16 * torch.finfo(outs[0].dtype).eps * outs[0].abs().max().item()
        for out in outs[1:]:
            torch.testing.assert_close(out, outs[0], rtol=0, atol=tolerance)


@devices
def test_moved_bytes_are_those_of_inputs_weights_and_output(device):
    # 64 channels in and out, and a 3×3 convolution of them with a bias
    numbers = 2 * 64 * 12 * 9 + 64 * 64 * 9 + 64
    settings = Settings((12, 9), threads=1, repeats=1, device=device)
    row = measure_operator(OPERATORS["Conv2d"]["3×3"], settings)
    assert row["moved_mib"] * 2**20 == 4 * numbers
    for times in ("forward", "forward_backward"):
        copies = row[f"{times}_ms"]["median"] / row["copy_ms"]["min"]
        assert row[f"{times}_copies"] == pytest.approx(copies)


def test_compiled_backbones_are_compiled(monkeypatch):
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: calls.append(self))
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    modes = []
    network.register_forward_hook(lambda module, *_: modes.append(module.training))
    make = lambda: network  # noqa: E731
    settings = Settings((8, 8), threads=1, repeats=1)
    row = measure_backbone(make, "compiled", settings)
    assert len(calls) == 1
    # one call to load kernels; two that warm up and one that is timed, of a training step and of
    # inference; products
    assert modes == [False] + 3 * [True] + 3 * [False] + [False]
    # what the compiler takes would count
    assert row["train_memory_mib"] is None
    assert measure_backbone(make, "eager", settings)["train_memory_mib"] is not None
    assert len(calls) == 1


@devices
def test_a_backbone_is_measured_where_it_is_asked_to(device):
    places = set()

    class Network(nn.Conv2d):
        def forward(self, x):
            places.add((x.device.type, self.training, tuple(x.shape)))
            return super().forward(x)

    settings = Settings((9, 70), batch=2, threads=1, repeats=1, device=device)
    row = measure_backbone(lambda: Network(3, 4, 1), "eager", settings)
    # a corner first; the products of one image are counted on the CPU
    assert places == {
        (device, False, (2, 3, 9, 64)),
        *((device, training, (2, 3, 9, 70)) for training in (True, False)),
        ("cpu", False, (1, 3, 9, 70)),
    }
    assert (row["params"], row["macs"]) == (16, 9 * 70 * 12)
    assert row["images_per_s"] == pytest.approx(2e3 / row["forward_ms"]["median"])


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("maskrcnn_acmix_r50", "maskrcnn_r50"),
        ("cascade_maskrcnn_uniformer_b_3x", "cascade_maskrcnn_r50"),
        ("fasterrcnn_xvolution_r50_sa", "fasterrcnn_r50"),
        ("fpn_biformer_s", "fpn_r50"),
        ("upernet_r50", "upernet_r50"),
        ("newmethod_acmix_r50", "newmethod_r50"),
    ],
)
def test_the_baseline_has_the_same_method(repository, name, baseline):
    configs = repository / "configs"
    assert baseline_of(configs / f"{name}.py") == configs / f"{baseline}.py"


@devices
def test_train_compares_each_model_with_its_baseline(repository, monkeypatch, device):
    monkeypatch.setattr(
        training, "measure_alone", lambda measure, *args, settings: measure(*args, settings)
    )
    names = ["upernet_acmix_r26", "retinanet_acmix_r26"]
    configs = [repository / f"configs/{name}.py" for name in names]
    settings = Settings((64, 96), batch=2, threads=1, repeats=1, device=device)
    rows = benchmark_training(settings, configs)
    order = ["upernet_r50", names[0], "retinanet_r50", names[1]]
    assert [row["config"] for row in rows] == order
    for baseline, row in zip(rows[::2], rows[1::2], strict=True):
        assert row["train_images_per_s"] == pytest.approx(2e3 / row["train_ms"]["median"])
        ratio = baseline["train_ms"]["median"] / row["train_ms"]["median"]
        assert row["ratio"]["train_ms"] == pytest.approx(ratio)
        assert baseline["ratio"]["train_ms"] == 1


def test_layers_say_what_each_part_of_a_model_keeps(repository, monkeypatch):
    monkeypatch.setattr(
        training, "measure_alone", lambda measure, *args, settings: measure(*args, settings)
    )
    settings = Settings((64, 96), batch=2, threads=1)
    rows = benchmark_layers(settings, [repository / "configs/retinanet_acmix_r26.py"])
    tables = {name: {} for name in ("retinanet_r50", "retinanet_acmix_r26")}
    for row in rows:
        tables[row["config"]][row["layer"]] = row
    theirs, ours = tables.values()
    for table in tables.values():
        parts = sum(row["kept_mib"] for layer, row in table.items() if layer != "all")
        assert table["all"]["kept_mib"] == pytest.approx(parts)
    # the stem of mmdet's baseline and its first stage are frozen
    stages = [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    assert [*theirs] == [*stages[1:], "neck", "bbox_head", "others", "all"]
    # images, and what the stem's convolution makes of them
    assert ours["backbone.conv1"]["kept_mib"] == 2 * 3 * 64 * 96 * 4 / 2**20
    assert ours["backbone"]["kept_mib"] == 2 * 64 * 32 * 48 * 4 / 2**20
    assert {*stages, "neck", "bbox_head"} < {*ours}
    for layer in stages[1:]:
        ratio = theirs[layer]["kept_mib"] / ours[layer]["kept_mib"]
        assert ours[layer]["ratio"]["kept_mib"] == pytest.approx(ratio)


def test_random_pictures_have_what_a_model_learns_from():
    settings = Settings((64, 96), batch=2)
    detection, segmentation = (random_batch(scope, settings) for scope in ("mmdet", "mmseg"))
    for batch in (detection, segmentation):
        assert [tuple(x.shape) for x in batch["inputs"]] == [(3, 64, 96)] * 2
    for sample in detection["data_samples"]:
        boxes = sample.gt_instances.bboxes
        assert boxes.shape == (NUM_OBJECTS, 4)
        assert (boxes[:, 2:] <= torch.tensor([96, 64])).all()
        assert sample.gt_instances.masks.masks.shape == (NUM_OBJECTS, 64, 96)
    again = random_batch("mmseg", settings)
    for sample, same in zip(segmentation["data_samples"], again["data_samples"], strict=True):
        assert sample.gt_sem_seg.data.shape == (1, 64, 96)
        assert torch.equal(sample.gt_sem_seg.data, same.gt_sem_seg.data)


def test_a_segmentor_sees_pictures_of_the_size_asked_for(repository, monkeypatch):
    sizes = []
    forward = ResNetV1c.forward

    def watch(self, x):
        sizes.append(tuple(x.shape))
        return forward(self, x)

    monkeypatch.setattr(ResNetV1c, "forward", watch)
    settings = Settings((64, 96), batch=2, threads=1, repeats=1)
    measure_training(repository / "configs/upernet_r50.py", settings)
    assert set(sizes) == {(2, 3, 64, 96)}
