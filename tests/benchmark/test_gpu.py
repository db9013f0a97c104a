"""Laws of `tools/benchmark.py gpu`, rehearsed on the CPU with Triton's interpreter."""

import json
import os
import re
from dataclasses import replace
from time import sleep

import pytest
import torch
from helpers import interpreted

from hybrid_backbones.benchmark import accuracy, gpu
from hybrid_backbones.benchmark.accuracy import OPERATORS, explain_wrong, measure_errors
from hybrid_backbones.benchmark.fastest import find_fastest
from hybrid_backbones.benchmark.gpu import CHECKOUT, REHEARSAL, prove
from hybrid_backbones.benchmark.implementations import has_gradients
from hybrid_backbones.benchmark.probes import time_call
from hybrid_backbones.benchmark.rows import measure_alone
from hybrid_backbones.benchmark.settings import Settings, describe
from hybrid_backbones.benchmark.tables import to_markdown
from hybrid_backbones.ops.fastest import FASTEST, TABLE

KEPT = Settings((5, 7), threads=1, repeats=1, alone=False)
PAIRS = [(operator, backend) for operator in OPERATORS for backend in OPERATORS[operator].backends]


def process_id(settings):
    return dict(id=os.getpid())


def fail(settings):
    raise ValueError("no such kernel")


def test_a_process_is_kept_until_a_row_fails():
    first, second = (measure_alone(process_id, settings=KEPT) for _ in range(2))
    assert first == second != dict(id=os.getpid())
    assert measure_alone(fail, settings=KEPT) == dict(error="no such kernel")
    assert measure_alone(process_id, settings=KEPT) != first


def hang(settings):
    sleep(600)


def test_a_row_that_hangs_is_stopped_and_another_process_goes_on():
    hanging = replace(KEPT, limit=0.5)
    assert measure_alone(hang, settings=hanging) == dict(
        error="stopped after 0.5 s, the limit for it"
    )
    assert measure_alone(process_id, settings=KEPT)["id"] != os.getpid()


@pytest.mark.parametrize(("milliseconds", "queued"), [(0.5, 10), (80, 1)])
def test_short_calls_on_a_gpu_are_timed_many_at_once(monkeypatch, milliseconds, queued):
    calls, synchronised = [], []

    class Event:
        def __init__(self, enable_timing):
            self.at = 0

        def record(self):
            self.at = len(calls)

        def synchronize(self):
            synchronised.append(self.at)

        def elapsed_time(self, after):
            return milliseconds * (after.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    times = time_call(lambda: calls.append(None), device="cuda", repeats=3)
    assert times == dict.fromkeys(("median", "min", "max"), milliseconds)
    assert synchronised == [1, 2, 3, *(3 + queued * i for i in (1, 2, 3))]


@interpreted
@pytest.mark.parametrize(("operator", "backend"), PAIRS)
def test_errors_in_float32_are_roundings(operator, backend):
    errors = measure_errors(operator, backend, KEPT)
    assert 0 < errors["output_error"] < 1e-6
    if has_gradients(backend, "cpu"):
        assert 0 < errors["gradient_error"] < 1e-6
    else:
        assert errors["gradient_error"] is None


def test_errors_are_relative_to_the_definition(monkeypatch):
    apply, *others = OPERATORS["local_attention"]

    def slightly_wrong(*inputs, backend):
        return apply(*inputs, backend=backend) * (1 if backend == "reference" else 1.25)

    wrong = accuracy.Operator(slightly_wrong, *others)
    monkeypatch.setitem(OPERATORS, "local_attention", wrong)
    errors = measure_errors("local_attention", "tiled", KEPT)
    assert errors["output_error"] == pytest.approx(0.25, rel=1e-4)
    assert errors["gradient_error"] == pytest.approx(0.25, rel=1e-4)


@pytest.mark.slow
@interpreted
def test_the_proof_can_be_rehearsed_without_a_gpu(tmp_path, capsys):
    steps = ["errors", "kernels", "ops", "backbones", "compiled"]
    done = list(prove(REHEARSAL, steps, tmp_path))
    assert [(name, failed) for name, _, failed in done] == [(name, 0) for name in steps]
    saved = {
        name: json.loads((tmp_path / f"cpu_{name}.json").read_text())["rows"]
        for name in steps
        if name != "compiled"  # nothing is compiled in a rehearsal
    }
    for name in ("errors", "kernels", "ops"):
        assert {row["dtype"] for row in saved[name]} == {*REHEARSAL.dtypes}
        assert {"triton", "reference"} <= {row["implementation"] for row in saved[name]}
    measured = {(row["operator"], row["implementation"]) for row in saved["kernels"]}
    assert measured == {*PAIRS}
    assert all(row["forward_ms"]["median"] > 0 for row in saved["kernels"])
    for row in saved["kernels"]:
        assert ("forward_backward_ms" in row) == has_gradients(row["implementation"], "cpu")
    assert [row["backbone"] for row in saved["backbones"]] == [*REHEARSAL.backbones]
    table = json.loads((tmp_path / TABLE.name).read_text())
    assert table["fastest"].keys() == {operator for operator, _ in PAIRS}
    for operator, found in table["fastest"].items():
        assert found.keys() == {*REHEARSAL.dtypes}
        for name in found["float32"].values():
            assert (operator, name) in PAIRS


def test_operators_choose_by_the_table_of_the_documentation():
    rows, errors = (
        json.loads((CHECKOUT / f"docs/benchmarks/cuda_{name}.json").read_text())["rows"]
        for name in ("kernels", "errors")
    )
    assert find_fastest(rows, errors) == FASTEST


def test_no_implementation_of_the_documentation_is_wrong():
    rows = json.loads((CHECKOUT / "docs/benchmarks/cuda_errors.json").read_text())["rows"]
    definitions = {
        (row["operator"], row["dtype"]): row for row in rows if row["implementation"] == "reference"
    }
    for row in rows:
        assert explain_wrong(row, definitions[row["operator"], row["dtype"]]) is None


@pytest.mark.parametrize("of", ["output", "gradient"])
def test_an_implementation_with_wrong_numbers_fails_and_is_not_chosen(monkeypatch, of):
    apply, _, shape = OPERATORS["local_attention"]

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x if of == "output" else x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    def doubled(*inputs, backend):
        out = apply(*inputs, backend=backend)
        return out if backend == "reference" else Double.apply(out)

    operator = accuracy.Operator(doubled, ["tiled", "reference"], shape)
    monkeypatch.setattr(accuracy, "OPERATORS", dict(local_attention=operator))
    monkeypatch.setattr(
        accuracy, "measure_alone", lambda measure, *args, settings: measure(*args, settings)
    )
    wrong, right = errors = accuracy.benchmark_errors(KEPT, ["float32"])
    name = "output" if of == "output" else "gradients"
    assert re.fullmatch(f"the error of its {name} must be at most .*e-0[67], got 1", wrong["error"])
    assert "error" not in right
    assert "local_attention float32 tiled is wrong: the error" in to_markdown(
        errors, describe(KEPT)
    )
    names = dict(operator="local_attention", dtype="float32", size="small")
    times = [
        dict(names, implementation=implementation, forward_ms=dict(median=median, min=0, max=9))
        for implementation, median in dict(tiled=1.0, triton=2.0).items()
    ]
    assert find_fastest(times)["local_attention"]["float32"] == dict(forward="tiled")
    checked = [*errors, dict(right, implementation="triton")]
    assert find_fastest(times, checked)["local_attention"]["float32"] == dict(forward="triton")
    # what was not compared, as where the whole step failed, is not chosen
    for unchecked in (errors, [dict(step="errors", error="no compiler")]):
        assert find_fastest(times, unchecked)["local_attention"]["float32"] == {}


def test_nothing_is_right_beside_a_definition_that_was_not_measured(monkeypatch):
    def measure(measure_errors, operator, backend, settings):
        return dict(error="no memory") if backend == "reference" else dict(output_error=0.0)

    monkeypatch.setattr(accuracy, "measure_alone", measure)
    rows = accuracy.benchmark_errors(KEPT, ["float32"])
    assert {row["implementation"] for row in rows} > {"reference"}
    assert all("no memory" in row["error"] for row in rows)


def test_the_fastest_takes_the_least_time_for_all_sizes():
    def rows_of(name, **medians):
        names = dict(operator="attention", dtype="float32", implementation=name)
        return [
            dict(names, size=size, forward_ms=dict(median=median, min=0, max=9))
            for size, median in medians.items()
        ]

    rows = [
        *rows_of("flex", small=1.0, large=5.0),
        *rows_of("triton", small=2.0, large=3.0),
        # what runs out of memory, and what always takes much of it
        *rows_of("tiled", small=0.5),
        *rows_of("reference", small=0.1, large=0.1),
    ]
    assert find_fastest(rows) == {"attention": {"float32": {"forward": "triton"}}}


@pytest.mark.exhaustive
def test_files_that_cannot_be_collected_count_as_failed(tmp_path, monkeypatch):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_broken.py").write_text("raise ImportError('no such module')\n")
    marked = "import pytest\n\n@pytest.mark.cuda\ndef test_one():\n    assert {}\n"
    (tests / "test_passes.py").write_text(marked.format("True"))
    (tests / "test_fails.py").write_text(marked.format("False"))
    # as the project's own: what is measured afterwards must not see it
    (tests / "conftest.py").write_text("import torch\n\ntorch.backends.cudnn.allow_tf32 = False\n")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(gpu, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    [(_, _, failed)] = prove(REHEARSAL, ["tests"], tmp_path)
    rows = json.loads((tmp_path / "cpu_tests.json").read_text())["rows"]
    counts = {row["tests"].rpartition("/")[2]: (row["passed"], row["failed"]) for row in rows}
    assert counts == {"test_broken.py": (0, 1), "test_fails.py": (0, 1), "test_passes.py": (1, 0)}
    assert failed == 2
    assert torch.backends.cudnn.allow_tf32


def test_a_step_that_fails_has_its_reason_in_its_table_and_stops_no_other(tmp_path, monkeypatch):
    def fail(plan):
        raise ValueError("no compiler\nat all")

    monkeypatch.setitem(gpu.STEPS, "kernels", fail)
    done = list(prove(REHEARSAL, ["kernels", "errors"], tmp_path))
    assert [(name, failed) for name, _, failed in done] == [("kernels", 1), ("errors", 0)]
    saved = json.loads((tmp_path / "cpu_kernels.json").read_text())
    assert saved["rows"] == [dict(step="kernels", error="no compiler")]
    assert not (tmp_path / TABLE.name).exists()


def test_no_step_begins_after_the_time_of_the_proof(tmp_path, monkeypatch):
    def take(plan):
        sleep(0.1)
        return plan.settings(plan.odd_size), []

    for name in ("tests", "errors"):
        monkeypatch.setitem(gpu.STEPS, name, take)
    brief = replace(REHEARSAL, limit=0.05)
    assert [failed for *_, failed in prove(brief, ["tests", "errors"], tmp_path)] == [0, 1]
    assert "give --only errors" in (tmp_path / "cpu_errors.json").read_text()


def test_no_row_is_measured_after_the_time_of_the_proof(tmp_path, monkeypatch):
    def take(plan):
        rows = [measure_alone(hang, settings=plan.settings(plan.odd_size)) for _ in range(2)]
        return plan.settings(plan.odd_size), rows

    monkeypatch.setitem(gpu.STEPS, "errors", take)
    brief = replace(REHEARSAL, limit=0.5)
    [(_, seconds, failed)] = prove(brief, ["errors"], tmp_path)
    assert failed == 2
    assert seconds < 60
    first, second = json.loads((tmp_path / "cpu_errors.json").read_text())["rows"]
    assert re.fullmatch(r"stopped after 0\.\d+ s, the limit for it", first["error"])
    assert second["error"] == "not begun, as the time for all was over"
    # and no longer afterwards
    assert "id" in measure_alone(process_id, settings=KEPT)


@pytest.mark.parametrize("of", [0, 1, 2])
def test_errors_that_are_no_numbers_are_failures(of, monkeypatch):
    apply, *others = OPERATORS["local_attention"]

    class Nan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    def without_gradient(*inputs, backend):
        if backend != "reference":
            inputs = [Nan.apply(x) if i == of else x for i, x in enumerate(inputs)]
        return apply(*inputs, backend=backend)

    monkeypatch.setitem(OPERATORS, "local_attention", accuracy.Operator(without_gradient, *others))
    with pytest.raises(ArithmeticError, match=r"not finite.*nan"):
        measure_errors("local_attention", "tiled", KEPT)
