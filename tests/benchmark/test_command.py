"""Laws of `tools/benchmark.py`: what its commands write, and what they refuse."""

import json
import os
import runpy
import shlex
import subprocess
import sys

import pytest
import torch
from PIL import Image

from hybrid_backbones.benchmark import rows as rows_of_tables
from hybrid_backbones.benchmark import subjects
from hybrid_backbones.benchmark.implementations import CUDA_ONLY
from hybrid_backbones.benchmark.measure import benchmark_operators
from hybrid_backbones.benchmark.page import write_page
from hybrid_backbones.benchmark.settings import Settings, describe
from hybrid_backbones.benchmark.subjects import OPERATORS
from hybrid_backbones.benchmark.tables import report, tabulate
from hybrid_backbones.training.requirements import require_writable_file

ON_CPU = [
    (operator, implementation)
    for operator, implementations in OPERATORS.items()
    for implementation in implementations
    if implementation not in CUDA_ONLY
]
SETTING = {"date", "command", "torch", "device", "device_name", "dtype", "threads", "size"}


class LaunchError(Exception):
    """As Triton's is, no RuntimeError; and it cannot be pickled."""

    def __init__(self):
        super().__init__("no such kernel\nand more")
        self.reason = lambda: None


def refuse(settings):
    raise LaunchError


def run_tool(repository, folder, *arguments):
    # one thread: more cost very much on a busy machine, and maps are small
    command = [sys.executable, repository / "tools/benchmark.py", *arguments]
    # kernels are not measured in Triton's interpreter
    environment = dict(os.environ, PYTHONPATH=str(repository), TRITON_INTERPRET="0")
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


@pytest.mark.exhaustive
def test_ops_writes_every_row_and_its_ratio(repository, tmp_path):
    # each row is a process; what the other operators compute is tested above
    only = ["local_attention", "Conv2d"]
    arguments = ["--size", "20", "18", "--threads", "1", "--repeats", "2", "--only", *only]
    arguments += ["--scales", "1", "2"]
    done = run_tool(repository, tmp_path, "ops", *arguments)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "work_dirs/benchmark/ops.json").read_text())
    assert saved.keys() >= SETTING
    assert (saved["size"], saved["threads"], saved["repeats"]) == ([20, 18], 1, 2)
    assert saved["command"].endswith(shlex.join(["ops", *arguments]))
    rows = {(row["operator"], row["implementation"], row["size"]): row for row in saved["rows"]}
    wanted = [pair for pair in ON_CPU if pair[0] in only]
    assert list(rows) == [(*pair, size) for pair in wanted for size in ("20×18", "40×36")]
    for (operator, implementation, size), row in rows.items():
        assert implementation in done.stdout
        for figure in ("forward_ms", "forward_backward_ms"):
            assert 0 < row[figure]["min"] <= row[figure]["median"] <= row[figure]["max"]
        reference = rows.get((operator, "reference", size))
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
    with Image.open(tmp_path / "work_dirs/benchmark/ops.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 2


@pytest.mark.slow
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
        assert row["images_per_s"] == pytest.approx(1e3 / row["forward_ms"]["median"])
        assert row["train_ms"]["median"] > row["forward_ms"]["median"]
        if sys.platform == "linux":
            # a gradient and two moments of Adam for every weight
            assert row["train_memory_mib"] > 3 * 4 * row["params"] / 2**20
        assert f"| {row['backbone']} | eager | {row['params'] / 1e6:.3g} |" in done.stdout
    assert out.with_suffix(".png").stat().st_size > 0


def test_page_is_that_of_the_saved_tables(repository):
    page = (repository / "docs/benchmarks.md").read_text()
    assert page == write_page(repository / "docs/benchmarks"), "python tools/benchmark.py page"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: table"),
        (["ops", "--size", "0", "8"], "repeats must be at least 1, got"),
        (["ops", "--repeats", "0"], "repeats must be at least 1, got"),
        (["ops", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["ops", "--scales", "0"], "repeats must be at least 1, got"),
        (["backbones", "--only", "VGG"], "there is no 'VGG'; expected ["),
        (["ops", "--only", "local_atention"], "no 'local_atention'; did you mean local_attention?"),
        (["ops", "--threads", "0"], "repeats must be at least 1, got"),
        (["ops", "--out", "docs.png"], "expected a file that ends in .json, got docs.png"),
        (["ops", "--out", "README.md/ops.json"], "File exists: 'README.md'"),
        (["train", "configs/_base_/runtime_detection.py"], "pictures, got configs/_base_"),
        (["page", "--out", "README.md/page.md"], "cannot write README.md/page.md"),
        (["page", "configs"], "expected tables such as cpu_ops.json in configs, found none"),
        (["train", "configs/no_such.py"], "no config at configs/no_such.py: check"),
        (["train", "configs/imagenet_acmix_r50.py"], "expected a config of a detector or segm"),
        (["layers", "configs/imagenet_acmix_r50.py"], "expected a config of a detector or segm"),
        (["layers", "configs/maskrcnn_r50.py", "--repeats", "2"], "unrecognized arguments: --rep"),
        (["train", "configs/locformer_swin_t.py"], "that learns from pictures, got configs/loc"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_explained(repository, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(repository / "tools/benchmark.py"), run_name="__main__")
    assert stop.value.code not in (0, None)
    # Python prints a code that is a text
    assert message in f"{capsys.readouterr().err}{stop.value.code}"


def test_a_file_that_cannot_be_written_stops_before_the_work(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match=r"cannot write .*Is a directory"):
        require_writable_file(tmp_path / "folder.json")
    require_writable_file(tmp_path / "new/ops.json")
    assert not (tmp_path / "new/ops.json").exists()
    (tmp_path / "ops.json").write_text("{}")
    require_writable_file(tmp_path / "ops.json")
    assert (tmp_path / "ops.json").read_text() == "{}"


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"rows": []}'])
def test_a_broken_table_is_named(tmp_path, content):
    (tmp_path / "cpu_ops.json").write_text(content)
    with pytest.raises(ValueError, match=r"a table of hb benchmark in .*cpu_ops\.json"):
        write_page(tmp_path)


def test_the_command_tells_what_the_allocator_was_told(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/benchmark.py", "ops"])
    assert describe(Settings((8, 8)))["command"] == "python tools/benchmark.py ops"
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    command = describe(Settings((8, 8)))["command"]
    assert command == "MALLOC_MMAP_MAX_=0 python tools/benchmark.py ops"


def test_settings_name_what_they_refuse(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"PyTorch sees 0 devices of type cuda.*doctor"):
        Settings((8, 8), device="cuda")
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        Settings((8, 8), dtype="float8")
    with pytest.raises(ValueError, match="device must be cpu or cuda"):
        Settings((8, 8), device="tpu")


def test_row_that_fails_is_named_and_the_others_stand(monkeypatch, tmp_path, capsys):
    implementations = {"reference": OPERATORS["Conv2d"]["3×3"], "broken": refuse}
    monkeypatch.setattr(subjects, "OPERATORS", {"Conv2d": implementations})
    monkeypatch.setattr(rows_of_tables, "run_alone", lambda function, *args, limit: function(*args))
    settings = Settings((8, 8), repeats=1, threads=torch.get_num_threads())
    good, bad = rows = benchmark_operators(settings)
    assert good["forward_ms"]["median"] > 0
    names = dict(operator="Conv2d", implementation="broken", size="8×8")
    assert bad == dict(names, error="no such kernel", ratio={})
    assert set(tabulate(rows)[2][3:]) == {"–"}
    report(rows, describe(settings), tmp_path / "ops.json")
    assert "Conv2d broken 8×8 was not measured: no such kernel" in capsys.readouterr().out
