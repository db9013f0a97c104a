"""Laws of `tools/benchmark.py gpu` on machines that have little more than PyTorch and Triton."""

import json
import os
import subprocess
import sys

import pytest

from hybrid_backbones.benchmark.accuracy import OPERATORS

# all that may be missing where PyTorch and Triton are
ABSENT = [
    *("matplotlib", "mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg"),
    *("PIL", "pycocotools", "rich", "torchvision"),
]


@pytest.fixture
def run_bare(repository, tmp_path):
    """Return a function that runs the proof, also in its processes, as if `ABSENT` were absent."""
    site = tmp_path / "site"
    site.mkdir()
    missing = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    (site / "sitecustomize.py").write_text(missing)

    def run(*arguments, interpret="1"):
        paths = dict(PYTHONPATH=f"{site}:{repository}", TRITON_INTERPRET=interpret)
        return subprocess.run(
            [sys.executable, repository / "tools/benchmark.py", "gpu", *arguments],
            cwd=tmp_path,
            env=dict(os.environ, **paths),
            text=True,
            capture_output=True,
        )

    return run


def test_the_command_starts_with_nothing_but_pytorch(run_bare):
    done = run_bare("--help")
    assert done.returncode == 0, done.stderr
    assert "usage: benchmark.py gpu" in done.stdout


def test_a_step_names_the_package_that_it_lacks(run_bare, tmp_path):
    done = run_bare("--rehearse", "--only", "backbones", "--out", "out")
    assert done.returncode == 1
    assert done.stderr == ""
    [row] = json.loads((tmp_path / "out/cpu_backbones.json").read_text())["rows"]
    assert row["error"] == "this step needs torchvision, which is not installed"


def test_a_rehearsal_without_the_interpreter_is_refused(run_bare):
    done = run_bare("--rehearse", "--only", "errors", interpret="0")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: --rehearse runs Triton's kernels in its interpreter: expected")


@pytest.mark.slow
def test_errors_and_kernels_need_nothing_but_pytorch_and_triton(run_bare, tmp_path):
    done = run_bare("--rehearse", "--only", "errors", "kernels", "--out", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out/proof.json").read_text())
    assert summary["seconds"].keys() == {"errors", "kernels", "all"}
    assert summary["failed"] == 0
    measured = {(name, backend) for name, one in OPERATORS.items() for backend in one.backends}
    for name in ("errors", "kernels"):
        rows = json.loads((tmp_path / f"out/cpu_{name}.json").read_text())["rows"]
        assert {(row["operator"], row["implementation"]) for row in rows} == measured
