"""Importing the package is enough for a config of any host to find all that it brings."""

import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_backbones import registration

pytestmark = pytest.mark.upstream

# for each host: names of registries in mmengine, and what a config of the host may name in them
FOUND = {
    "mmdet": dict(
        HOOKS="FiniteLossHook WholeCheckpointHook SeedIterationsHook ProgressHook CurvesHook",
        OPTIM_WRAPPERS="BFloat16OptimWrapper CPUFloat16OptimWrapper",
        DATA_SAMPLERS="SeededSampler SeededInfiniteSampler",
        TRANSFORMS="SeedSample LoadImageStrict RenderSketch",
        DATASETS="CheckedCocoDataset SketchCocoDataset",
        MODELS="UniFormer SwinRAM LocFormer SketchGuided",
    ),
    "mmseg": dict(
        HOOKS="FiniteLossHook",
        DATA_SAMPLERS="SeededInfiniteSampler",
        DATASETS="CheckedSegDataset CheckedADE20KDataset",
        TRANSFORMS="LoadImageStrict LoadAnnotationsStrict",
        MODELS="BiFormer",
    ),
    "mmpretrain": dict(
        HOOKS="FiniteLossHook",
        DATA_SAMPLERS="SeededSampler SeededRepeatAugSampler",
        MODELS="ACmixSwin ProjectedPooling PairedLinearHead",
    ),
}


def run(script):
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )


def test_a_config_of_each_host_finds_everything_after_the_import():
    script = f"""
import hybrid_backbones
import mmengine.registry
for host, registries in {FOUND!r}.items():
    for registry, names in registries.items():
        with getattr(mmengine.registry, registry).switch_scope_and_registry(host) as scoped:
            for name in names.split():
                assert scoped.get(name) is not None, (host, name)
"""
    done = run(script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", ["ImportError", "AssertionError", "AttributeError", "OSError"])
def test_a_broken_host_does_no_harm_to_the_others(tmp_path, monkeypatch, error):
    (tmp_path / "broken_host").mkdir()
    (tmp_path / "broken_host/__init__.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "MODULES", {("broken_host", "MODELS"): ()})
    registration.register_with_hosts()


def test_a_registry_that_is_not_there_is_a_bug(monkeypatch):
    monkeypatch.setattr(registration, "MODULES", {("mmdet", "MODEL"): ()})
    with pytest.raises(AttributeError, match="MODEL"):
        registration.register_with_hosts()


def test_no_host_is_imported_or_needed():
    script = """
import sys
sys.modules.update(mmdet=None, mmpretrain=None, mmseg=None)
import hybrid_backbones
from mmengine.registry import HOOKS
HOOKS.build(dict(type="FiniteLossHook"))
for host in ("mmdet", "mmpretrain", "mmseg"):
    del sys.modules[host]
import importlib
importlib.reload(hybrid_backbones.registration).register_with_hosts()
loaded = {"mmdet.models", "mmdet.datasets", "mmpretrain.models", "mmseg.models"} & set(sys.modules)
assert not loaded, loaded
"""
    done = run(script)
    assert done.returncode == 0, done.stderr
