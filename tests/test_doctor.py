"""Laws of the doctor: it runs wherever Python runs, and names each problem and its remedy."""

import collections
import os
import subprocess
import sys

import pytest
import torch
from rich.text import Text

from hybrid_backbones import doctor
from hybrid_backbones.ops import triton_support


@pytest.fixture
def run_doctor(repository, tmp_path):
    """Run the tool in an empty folder, with folders before others on Python's path."""

    def run(*folders, **variables):
        path = os.pathsep.join(map(str, [*folders, repository]))
        done = subprocess.run(
            [sys.executable, repository / "tools/doctor.py"],
            cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=path, **variables),
            text=True,
            capture_output=True,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    return run


def states(lines):
    """Map each subject of the printed table to its state."""
    return {line[:24].strip(): line[24:33].strip() for line in lines}


def about(lines, state, subject):
    """Return the remarks on a subject."""
    return [line for line in lines if line.startswith(f"{state}: {subject} ")]


def put_package(folder, name, source):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)
    return folder


def put_tree(root, names):
    for name in names.replace("*", "n01440764").split():
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


@pytest.mark.parametrize(
    "closing",
    ["| true", pytest.param(">&-", marks=pytest.mark.exhaustive)],
    ids=["pipe", "closed"],
)
def test_a_reader_that_leaves_ends_the_report_quietly(repository, tmp_path, closing):
    tool = (
        f"{sys.executable} {repository / 'tools/doctor.py'} {closing}; echo ${{PIPESTATUS[0]}} >&2"
    )
    done = subprocess.run(
        ["bash", "-c", tool],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(repository)),
        text=True,
        capture_output=True,
    )
    assert done.stderr == "0\n"


def test_working_installation_passes(run_doctor, tmp_path):
    coco = put_tree(tmp_path / "here [1]", doctor.DATA["COCO"][2])
    code, lines = run_doctor(COCO_ROOT=str(coco), IMAGENET_ROOT=str(tmp_path / "absent"))
    assert code == 0, lines
    found = states(lines)
    assert {found[package] for package in doctor.PACKAGES} == {"ok"}
    assert lines[-1] == "Training can start."
    assert any("AMP: fp16 yes, bf16 yes" in line for line in lines)
    # data that is not there is only a note
    assert (found["COCO"], found["ImageNet"]) == ("ok", "note")
    (note,) = about(lines, "note", "ImageNet")
    assert f"({tmp_path / 'absent'}) does not exist -> set IMAGENET_ROOT to a folder with" in note
    assert note.endswith("use --mini")


@pytest.mark.parametrize(
    ("package", "error", "remedy"),
    [
        ("mmdet", "ModuleNotFoundError(\"No module named 'mmdet'\", name='mmdet')", "install -r"),
        ("torch", "ModuleNotFoundError(\"No module named 'torch'\", name='torch')", "install -r"),
        pytest.param(
            *("torchvision", "RuntimeError('operator torchvision::nms does not exist')"),
            "torch torch",
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["no mmdet", "no torch", "torchvision for another torch"],
)
def test_broken_package_is_named_with_its_remedy(run_doctor, tmp_path, package, error, remedy):
    code, lines = run_doctor(put_package(tmp_path / "broken", package, f"raise {error}"))
    assert code == 1
    assert lines[-1] == "Training cannot start."
    assert states(lines)[package] == "problem"
    (problem,) = about(lines, "problem", package)
    assert error.partition("(")[0] in problem.partition(" -> ")[0]
    assert remedy in problem.partition(" -> ")[2]


def test_what_needs_a_missing_package_points_to_it(run_doctor, tmp_path):
    error = "ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    _, lines = run_doctor(put_package(tmp_path / "broken", "torch", f"raise {error}"))
    (problem,) = about(lines, "problem", "hybrid_backbones")
    assert problem.endswith("cannot be imported without torch -> see there")


@pytest.mark.parametrize(
    "package",
    ["torch", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("triton", "rich"))],
)
def test_empty_package_does_not_stop_it(run_doctor, tmp_path, package):
    _, lines = run_doctor(put_package(tmp_path / "broken", package, ""))
    # the last of all checks
    assert "work_dirs" in states(lines)
    assert lines[-1].startswith("Training can")


@pytest.mark.exhaustive
def test_both_sets_at_once_are_noted(run_doctor, tmp_path):
    for name in ("mmcv", "mmcv_lite", "onedl_mmcv"):
        folder = tmp_path / f"more/{name}-2.1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: 2.1.0\n")
    _, lines = run_doctor(tmp_path / "more")
    (note,) = about(lines, "note", "distributions")
    assert "overwrite each other's files" in note
    uninstall = note.partition(" -> pip uninstall -y ")[2].partition(",")[0].split()
    assert {"mmcv", "mmcv-lite", "onedl-mmcv"} <= set(uninstall)


@pytest.mark.parametrize(
    ("subject", "error", "remedy"),
    [
        ("mmdet", AssertionError("MMCV==2.2 is used but incompatible."), "pip install -r req"),
        ("mmengine", ImportError("No module named 'pkg_resources'"), 'pip install "setuptools<82"'),
        ("mmseg", ImportError("No module named 'ftfy'"), "pip install ftfy"),
        ("mmpretrain", TypeError("NoneType takes no arguments"), "transformers<5"),
        ("mmcv", ImportError("libGL.so.1: cannot open"), "opencv-python-headless"),
        ("mmdet", ImportError("No module named 'mmdet.models'"), "--force-reinstall"),
        ("cuda:0", RuntimeError("no kernel image\nfor CUDA"), "install the torch that"),
        ("cuda:0", RuntimeError("no 'torchvision::nms' for 'CUDA'"), "torch torchvision, both"),
        ("mmpretrain", ValueError("\\1 {"), "--force-reinstall"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_error_has_its_remedy_in_one_line(subject, error, remedy):
    finding = doctor._fail(subject, "1.0", error)
    assert finding.fatal
    assert remedy in finding.remedy
    assert "\n" not in finding.problem + finding.remedy


@pytest.mark.parametrize("name", doctor.DATA)
def test_data_is_found_or_what_lacks_is_named(monkeypatch, tmp_path, name):
    def find():
        return next(finding for finding in doctor.check_data() if finding.subject == name)

    variable, _, expected = doctor.DATA[name]
    first, rest = expected.split(" ", 1)
    monkeypatch.setenv(variable, str(put_tree(tmp_path, rest)))
    assert (find().problem, find().fatal) == (f"lacks {first}", False)
    put_tree(tmp_path, expected)
    assert find() == (name, f"{tmp_path}, complete", "", "", False)


def test_images_without_folders_of_classes_do_not_make_imagenet(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGENET_ROOT", str(put_tree(tmp_path, "train/*/ val/picture.jpeg")))
    *_, imagenet = doctor.check_data()
    assert imagenet.problem == "lacks val/*/"


def test_work_dirs_must_be_a_folder_with_space(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for gib, state in ((10, "ok"), (1, "note")):
        usage = collections.namedtuple("usage", "free")(gib * 2**30)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder, usage=usage: usage)
        (finding,) = doctor.check_work_dirs()
        assert (finding.state, finding.found) == (state, f"{gib}.0 GiB free")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "work_dirs").touch()
    (finding,) = doctor.check_work_dirs()
    assert (finding.state, finding.found) == ("problem", "not writable")


def test_terminal_gets_a_table(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    doctor._print_table([doctor.Finding("COCO", "data[/]", "lacks train2017/", "get it")])
    row = Text.from_ansi(capsys.readouterr().out).plain.splitlines()[3]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["COCO", "note", "data[/]"]


@pytest.mark.parametrize(("load", "state"), [(0.5, "ok"), (2.0, "ok"), (4.5, "note")])
def test_a_crowded_processor_is_a_note(monkeypatch, load, state):
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 2)
    (finding,) = doctor.check_load()
    assert finding.found == f"{load} of 2 cores in use"
    assert (finding.state, finding.fatal) == (state, False)


@pytest.mark.parametrize(("capability", "state"), [((9, 0), "ok"), ((7, 5), "note")])
def test_a_gpu_whose_kernels_cannot_run_is_a_note(capability, state, monkeypatch):
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    monkeypatch.setattr(triton_support, "INSTALLED", True)
    monkeypatch.setattr(triton_support, "_missing_for_builds", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    findings = list(doctor.check_triton())
    assert [finding.found.partition(" on ")[2] for finding in findings] == ["cuda:0", "cuda:1"]
    assert {(finding.state, finding.fatal) for finding in findings} == {(state, False)}
    assert state == "ok" or "(8, 0), got (7, 5)" in findings[0].problem


@pytest.mark.exhaustive
def test_a_missing_compiler_is_a_note(run_doctor, tmp_path):
    code, lines = run_doctor()
    assert code == 0
    assert states(lines)["C++ compiler"] == "ok"
    code, lines = run_doctor(PATH=str(tmp_path))
    assert code == 0
    assert "--compile" in about(lines, "note", "C++ compiler")[0]
