"""The wheel and the sdist are the whole product: built from a copy, tried far from the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

import hybrid_backbones
from hybrid_backbones.checkpoints import PUBLISHED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.upstream,
    pytest.mark.skipif(
        Version(metadata.version("setuptools")) < Version("77"),
        reason="builds by the installed setuptools, which must be 77 or later",
    ),
]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "configs", "hybrid_backbones", "tools")
SOURCES += ("MANIFEST.in", "CHANGELOG.md", "CITATION.cff")
# to which a link of the package leads, and what is not to be packed
SOURCES += ("docs/benchmarks", "tests/test_wheel.py")
NAME = "imagenet_acmix_r26"
# six iterations
SHORT = ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=96"]
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def run(*command, cwd, **environment):
    """Run a command without the checkout on Python's path; return what it writes."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=dict(inherited, OMP_NUM_THREADS="1", **environment),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory):
    """The sdist, and the wheels of the checkout and of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (repository / name).is_dir() else shutil.copy
        options = dict(symlinks=True) if copy is shutil.copytree else {}
        (source / name).parent.mkdir(exist_ok=True)
        copy(repository / name, source / name, **options)
    run(sys.executable, "-c", BUILD_SDIST, folder, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps")
    wheels = []
    for name, origin in {"of_checkout": source, "of_sdist": sdist}.items():
        run(*pip, "--no-index", "--wheel-dir", folder / name, origin, cwd=folder)
        wheels += (folder / name).glob("*.whl")
    return sdist, *wheels


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Run a command of the wheel, installed into a folder of its own, in an empty folder."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", site, built[1], cwd=empty)

    def hb(*arguments):
        return run(site / "bin/hb", *arguments, cwd=empty, PYTHONPATH=str(site))

    hb.site, hb.folder = site, empty
    return hb


def files_of(root, pattern):
    return {path.relative_to(root).as_posix() for path in root.rglob(pattern)}


def test_the_wheel_has_every_file_and_nothing_else(built, repository):
    sdist, wheel, of_sdist = built
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names == set(zipfile.ZipFile(of_sdist).namelist())
    package = {name.removeprefix("hybrid_backbones/") for name in names}
    assert files_of(repository / "hybrid_backbones", "*.py") <= package
    assert {f".mim/configs/{name}" for name in files_of(repository / "configs", "*.py")} <= package
    commands = {".mim/tools/train.py", ".mim/tools/dist_train.sh", ".mim/tools/weights.py"}
    assert {"py.typed", ".mim/model-index.yml", ".mim/metafile.yml", *commands} <= package
    assert {".mim/benchmarks/cuda_train.json", "ops/fastest.json"} <= package
    assert not {".mim/tools/model_zoo.py", ".mim/tools/doctor.py"} & package
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hybrid_backbones"}
    with tarfile.open(sdist) as archive:
        # links would point to nothing elsewhere
        assert [one.name for one in archive if one.issym() or one.islnk()] == []
        paths = {one.name.partition("/")[2] for one in archive}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= paths
    assert not [path for path in paths if path.startswith("tests/")]


def test_the_wheel_has_the_version_and_the_page_of_the_package(built, repository):
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
        described = message_from_string(wheel.read(name).decode())
    assert described["Version"] == hybrid_backbones.__version__
    assert described["Description-Content-Type"] == "text/markdown"
    assert described.get_payload().strip() == (repository / "README.md").read_text().strip()


def test_a_config_is_trained_by_name_in_an_empty_folder(installed):
    out = installed("train", NAME, "--mini", "--cfg-options", *SHORT)
    work_dir = installed.folder / f"work_dirs/{NAME}_mini"
    assert (work_dir / "epoch_1.pth").is_file(), out
    # and evaluated by one that inherits it
    mine = installed.folder / "mine.py"
    mine.write_text(f"_base_ = 'hybrid_backbones::configs/{NAME}.py'\n")
    out = installed("test", mine.name, work_dir / "epoch_1.pth", "--mini")
    assert "accuracy/top1" in out
    assert str(installed.site) in run_python(installed, "print(hybrid_backbones.__file__)")


def run_python(installed, line):
    command = (sys.executable, "-c", f"import hybrid_backbones\n{line}")
    return run(*command, cwd=installed.folder, PYTHONPATH=str(installed.site))


@pytest.mark.exhaustive
def test_the_doctor_and_the_table_of_weights_are_there(installed):
    assert installed("doctor").splitlines()[-1] == "Training can start."
    lines = installed("weights", "list").splitlines()
    assert [line.split()[0] for line in lines] == [*PUBLISHED]
    assert installed("--version") == f"hybrid-backbones {hybrid_backbones.__version__}\n"


def test_openmim_finds_tools_and_configs_where_the_hosts_have_them(installed):
    mim = Path(installed.site) / "hybrid_backbones/.mim"
    out = run(
        *(sys.executable, mim / "tools/test.py", "--help"),
        cwd=installed.folder,
        PYTHONPATH=str(installed.site),
    )
    assert out.startswith("usage: test.py ")
    config = f"hybrid_backbones::configs/{NAME}.py"
    line = f"import mmengine.hub; print(mmengine.hub.get_config({config!r}).filename)"
    path = Path(run_python(installed, line).strip().splitlines()[-1])
    assert path.resolve() == (mim / f"configs/{NAME}.py").resolve()
