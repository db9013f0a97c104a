"""Laws of the benchmark: what its probes measure, and what its commands write."""

import json
import os
import runpy
import shlex
import subprocess
import sys

import pytest
import torch
from torch import nn

from hybrid_backbones.engine import benchmark
from hybrid_backbones.engine.benchmark import BACKBONES, OPERATORS, Settings, benchmark_operators
from hybrid_backbones.engine.probes import count_macs, extra_memory, run_alone, time_call
from hybrid_backbones.engine.tables import report, tabulate
from hybrid_backbones.ops import local_attention

SETTING = {"date", "command", "torch", "device", "device_name", "dtype", "threads", "size"}


def fill(mebibytes):
    return bytearray(b"x") * (mebibytes * 2**20)


def probe(mebibytes, *, before=0):
    """Measure an allocation of known size, after another one that is given back."""
    fill(before)
    return extra_memory(lambda: fill(mebibytes))


def die():
    os._exit(1)


def refuse(settings):
    raise RuntimeError("no such kernel\nand more")


def run_tool(repository, folder, *arguments):
    # one thread: more cost very much on a busy machine, and maps are small
    command = [sys.executable, repository / "tools/benchmark.py", *arguments]
    environment = dict(os.environ, PYTHONPATH=str(repository))
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


class NeighbourAttention(nn.Module):
    """Attend from each pixel of an image to K×K pixels, channel by channel."""

    def forward(self, x):
        heads = x[:, :, None]  # (B, h, d, H, W)
        return local_attention(heads, heads, heads, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of a process")
@pytest.mark.parametrize("before", [0, 300])
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
        for make in implementations.values():
            torch.manual_seed(0)
            function, inputs = make(settings)
            assert all(x.dtype == getattr(torch, dtype) for x in inputs)
            outs.append(function(*inputs))
            assert outs[-1].shape[0] == batch
        # within the steps that a dtype can make at the size of the outputs
        tolerance = 16 * torch.finfo(outs[0].dtype).eps * outs[0].abs().max().item()
        for out in outs[1:]:
            torch.testing.assert_close(out, outs[0], rtol=0, atol=tolerance)


def test_ops_writes_every_row_and_its_ratio(repository, tmp_path):
    # each row is a process; what the other operator computes is tested above
    only = ["local_attention", "Conv2d"]
    arguments = ["--size", "40", "36", "--threads", "1", "--repeats", "2", "--only", *only]
    done = run_tool(repository, tmp_path, "ops", *arguments)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "work_dirs/benchmark/ops.json").read_text())
    assert saved.keys() >= SETTING
    assert (saved["size"], saved["threads"], saved["repeats"]) == ([40, 36], 1, 2)
    assert saved["command"].endswith(shlex.join(["ops", *arguments]))
    rows = {(row["operator"], row["implementation"]): row for row in saved["rows"]}
    assert list(rows) == [(name, one) for name in only for one in OPERATORS[name]]
    for (operator, implementation), row in rows.items():
        assert implementation in done.stdout
        for figure in ("forward_ms", "forward_backward_ms"):
            assert 0 < row[figure]["min"] <= row[figure]["median"] <= row[figure]["max"]
        reference = rows.get((operator, "reference"))
        if reference is None:
            assert row["ratio"] == {}
            continue
        for figure in ("forward_ms", "forward_backward_ms"):
            ratio = reference[figure]["median"] / row[figure]["median"]
            assert row["ratio"][figure] == pytest.approx(ratio)
        if sys.platform == "linux":
            assert row["extra_memory_mib"] > 0
            ratio = reference["extra_memory_mib"] / row["extra_memory_mib"]
            assert row["ratio"]["extra_memory_mib"] == pytest.approx(ratio)


def test_backbones_writes_size_and_time(repository, tmp_path):
    arguments = ["--size", "32", "48", "--threads", "1", "--repeats", "2", "--markdown"]
    only = ["ACmixResNet-26"]
    out = tmp_path / "new/folder/backbones.json"
    done = run_tool(repository, tmp_path, "backbones", *arguments, "--out", out, "--only", *only)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["backbone"] for row in rows] == only
    for row in rows:
        assert row["params"] > 1e6
        assert row["macs"] > 1e6
        assert 0 < row["forward_ms"]["min"] <= row["forward_ms"]["median"]
        assert f"| {row['backbone']} | {row['params'] / 1e6:.3g} |" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: table"),
        (["ops", "--size", "0", "8"], "repeats must be at least 1, got"),
        (["ops", "--repeats", "0"], "repeats must be at least 1, got"),
        (["ops", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["backbones", "--only", "VGG"], "invalid choice: 'VGG' (choose from"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_explained(repository, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(repository / "tools/benchmark.py"), run_name="__main__")
    assert stop.value.code not in (0, None)
    # Python prints a code that is a text
    assert message in f"{capsys.readouterr().err}{stop.value.code}"


def test_settings_name_what_they_refuse(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="PyTorch sees no"):
        Settings((8, 8), device="cuda")
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        Settings((8, 8), dtype="float8")
    with pytest.raises(ValueError, match="device must be cpu or cuda"):
        Settings((8, 8), device="tpu")


def test_row_that_fails_is_named_and_the_others_stand(monkeypatch, tmp_path, capsys):
    implementations = {"reference": OPERATORS["Conv2d"]["3×3"], "broken": refuse}
    monkeypatch.setattr(benchmark, "OPERATORS", {"Conv2d": implementations})
    monkeypatch.setattr(benchmark, "run_alone", lambda function, *args: function(*args))
    settings = Settings((8, 8), repeats=1, threads=torch.get_num_threads())
    good, bad = rows = benchmark_operators(settings)
    assert good["forward_ms"]["median"] > 0
    assert bad == dict(operator="Conv2d", implementation="broken", error="no such kernel", ratio={})
    assert set(tabulate(rows)[2][2:]) == {"–"}
    report(rows, benchmark.describe(settings), tmp_path / "ops.json")
    assert "Conv2d broken was not measured: no such kernel" in capsys.readouterr().out
