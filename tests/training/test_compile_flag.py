"""Laws of `--compile`: the backbone alone, the same numbers, the same checkpoints."""

import copy
import re
from functools import partial

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from tool_runs import (
    CONFIG,
    ONE_EPOCH,
    REPOSITORY,
    evaluate,
    metric_on_file,
    metrics,
    run,
    train,
)
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from hybrid_backbones.backbones import SwiftFormer
from hybrid_backbones.checkpoints import read_checkpoint
from hybrid_backbones.training.compilation import compile_backbone


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, images):
        return self.norm(self.conv(images)).relu()


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(6, 3)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.head(self.backbone(inputs).mean((2, 3)))


def gradients(model, images):
    model.zero_grad()
    model(images).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture
def counter(monkeypatch):
    """Count graphs, and run them by PyTorch's own kernels: the C++ ones take minutes to make."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def test_a_compiled_backbone_gives_the_same_outputs_gradients_and_statistics(counter):
    model, images = Model(), torch.randn(2, 3, 9, 7)
    twin = copy.deepcopy(model)
    compile_backbone(twin)
    torch.testing.assert_close(gradients(twin, images), gradients(model, images))
    assert counter.frame_count == 1
    torch.testing.assert_close(twin.state_dict(), model.state_dict())
    torch.testing.assert_close(twin.eval()(images), model.eval()(images))
    assert counter.frame_count == 2


def test_only_the_backbone_is_compiled(counter):
    model = Model()
    compile_backbone(model)
    model.head(torch.randn(2, 6))
    assert counter.frame_count == 0
    model.backbone(torch.randn(2, 3, 9, 7))
    assert counter.frame_count == 1


def test_checkpoints_fit_with_and_without(counter):
    model, other = Model(), Model()
    names = list(model.state_dict())
    compile_backbone(model)
    model(torch.randn(2, 3, 9, 7))
    assert list(model.state_dict()) == names
    other.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(other.state_dict(), strict=True)


def test_loaded_weights_count_after_compilation(counter):
    model, other = Model().eval(), Model().eval()
    images = torch.randn(2, 3, 9, 7)
    compile_backbone(model)
    model(images)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(images), other(images))


def test_a_copy_as_of_an_averaging_hook_is_independent(counter):
    model, images = Model().eval(), torch.randn(2, 3, 9, 7)
    compile_backbone(model)
    expected = model(images)
    twin = copy.deepcopy(model)
    nn.init.zeros_(twin.backbone.conv.weight)
    torch.testing.assert_close(model(images), expected)
    assert not torch.allclose(twin(images), expected)


def test_each_shape_is_compiled_once_and_those_beyond_the_limit_run_as_they_are(counter):
    model = Model().eval()
    twin = copy.deepcopy(model)
    compile_backbone(model)
    # the name that PyTorch 2.6 has as well
    limit = torch._dynamo.config.cache_size_limit
    for _ in range(2):
        for side in range(5, 5 + limit + 2):
            images = torch.randn(1, 3, side, side)
            torch.testing.assert_close(model(images), twin(images))
    assert counter.frame_count == limit


def test_a_model_in_a_wrapper_for_several_processes_trains_compiled(counter, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model, images = Model(), torch.randn(2, 3, 9, 7)
        twin = copy.deepcopy(model)
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
        compile_backbone(wrapped)
        wrapped(images).square().mean().backward()
        expected = gradients(twin, images)
        assert counter.frame_count == 1
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_network_of_ours_trains_under_autocast_compiled(counter):
    model = nn.Module()
    sizes = dict(depths=(1, 1, 1, 1), embed_dims=(8, 8, 8, 8))
    model.backbone = SwiftFormer(arch=sizes)
    twin, images = copy.deepcopy(model.backbone), torch.randn(2, 3, 64, 64)
    compile_backbone(model)
    for network in (model.backbone, twin):
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(x.float().square().mean() for x in network(images))
        loss.backward()
    assert counter.frame_count == 1
    # as a whole: biases in front of a batch norm have only rounding for a gradient
    a, b = (
        torch.cat([p.grad.flatten() for p in network.parameters()])
        for network in (model.backbone, twin)
    )
    assert (a - b).norm() < torch.finfo(torch.bfloat16).eps * b.norm()


def test_recomputation_in_training_is_refused():
    model = nn.Module()
    sizes = dict(depths=(1, 1, 1, 1), embed_dims=(8, 8, 8, 8))
    model.backbone = SwiftFormer(arch=sizes, with_cp=(0, 0, 1, 0))
    with pytest.raises(ValueError, match="with_cp=False"):
        compile_backbone(model)
    compile_backbone(model.eval())


def test_a_model_without_a_backbone_is_named():
    with pytest.raises(ValueError, match="Linear has no backbone"):
        compile_backbone(nn.Linear(2, 2))


@pytest.mark.exhaustive
def test_a_missing_compiler_is_said_in_one_line_before_anything_is_moved(tmp_path):
    (tmp_path / "epoch_9.pth").write_bytes(b"precious")
    code, _, err = run(*train(tmp_path, "--compile"), CXX="no-compiler")
    assert code == 1
    assert re.match("error: --compile: .*C.. compiler.*leave --compile out", err.splitlines()[-1])
    assert "Traceback" not in err
    assert (tmp_path / "epoch_9.pth").read_bytes() == b"precious"


TINY_BACKBONE = """
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module()
class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images):
        return (self.conv(images).relu(),)
"""


@pytest.mark.exhaustive
def test_a_compiled_training_is_resumed_without_and_tested_with_compilation(tmp_path):
    # the smallest network there is: PyTorch makes C++ code of each for a minute or more
    (tmp_path / "one_convolution.py").write_text(TINY_BACKBONE)
    config = tmp_path / "tiny.py"
    config.write_text(
        f"_base_ = {str(REPOSITORY / CONFIG)!r}\n"
        "custom_imports = dict(imports=['hybrid_backbones', 'one_convolution'])\n"
        "model = dict(backbone=dict(_delete_=True, type='OneConvolution'))\n"
        "model['head'] = dict(in_channels=8)\n"
    )
    work_dir, settings = tmp_path / "work", dict(config=config)
    path = dict(PYTHONPATH=str(tmp_path))
    options = [*ONE_EPOCH, "train_dataloader.dataset.indices=32"]
    code, out, err = run(*train(work_dir, "--compile", options=options, **settings), **path)
    assert code == 0, err
    assert "OneConvolution is compiled" in out
    names = read_checkpoint(work_dir / "epoch_1.pth")["state_dict"]
    assert [name for name in names if "backbone" in name] == [
        "backbone.conv.weight",
        "backbone.conv.bias",
    ]
    options[0] = "train_cfg.max_epochs=2"
    code, _, err = run(*train(work_dir, "--resume", options=options, **settings), **path)
    assert code == 0, err
    test = evaluate(tmp_path / "test", work_dir / "epoch_2.pth", "--compile", **settings)
    code, _, err = run(*test, **path)
    assert code == 0, err
    assert metric_on_file(tmp_path / "test") == metrics(work_dir)[-1]
