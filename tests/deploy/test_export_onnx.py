"""An exported file computes the same as PyTorch at every size, and nothing wrong is written."""

import json

import numpy as np
import pytest
import torch
from backbone_cases import ALL_KINDS, FEWER, build
from tiers import few_of
from torch import Tensor, nn

from hybrid_backbones.backbones import ACmixSwin, BiFormer, UniFormerLight
from hybrid_backbones.deploy import export, export_onnx
from hybrid_backbones.deploy.compare import relative_error
from hybrid_backbones.ops import XVolution

onnx = pytest.importorskip("onnx", reason="needs the extra deploy")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra deploy")

# without forms that have the same operators
OTHERS = ("swiftformer-first", "xvolution-resnet18-sa", "biformer-pointwise")
KINDS = [
    pytest.param(
        case.values[0],
        {**case.values[1], **FEWER.get(case.id, {})},
        id=case.id,
    )
    for case in ALL_KINDS
    if case.id not in OTHERS
]


def constants(graph):
    """Names of the values of a graph that do not depend on its inputs."""
    nodes = (node.output[0] for node in graph.node if node.op_type == "Constant")
    return {*nodes, *(tensor.name for tensor in graph.initializer)}


def largest_rank(model):
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = [value.type.tensor_type for value in values]
    assert all(shape.HasField("shape") for shape in shapes)
    assert len(shapes) > 100
    return max(len(shape.shape.dim) for shape in shapes)


def randomise(model):
    """Let every branch count: fresh ResNets multiply theirs by zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.5)
    return model.eval()


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


def assert_same(outputs, model, images):
    with torch.no_grad():
        expected = model(images)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4 * theirs.abs().max())


# each operator by itself in test_export_operators.py, too
@pytest.mark.parametrize(("network", "settings"), few_of(KINDS, "swiftformer"))
def test_a_dynamic_file_takes_any_batch_and_size(network, settings, tmp_path):
    model, out = randomise(build(network, settings)), tmp_path / "backbone.onnx"
    report = export_onnx(model, out, (129, 161), dynamic=True)
    assert report["dynamic"]
    assert max(report["errors"].values()) <= 1e-4
    for shape in ((1, 128, 128), (3, 97, 131), (2, 160, 288)):
        images = torch.randn(shape[0], 3, *shape[1:])
        assert_same(run(out, images), model, images)
    content = onnx.load(out)
    # of ACmixSwin the shift of the windows depends on the size
    assert largest_rank(content) <= (5 if network is ACmixSwin else 4)
    # light UniFormers sort all tokens, however many there are
    if network is not UniFormerLight:
        known = constants(content.graph)
        selections = [node for node in content.graph.node if node.op_type == "TopK"]
        assert bool(selections) == (network is BiFormer)
        assert all(node.input[1] in known for node in selections)


@pytest.mark.exhaustive
def test_a_dynamic_program_takes_sizes_that_coincide(tmp_path):
    (case,) = (case for case in KINDS if case.id == "acmix-resnet26")
    model = randomise(build(*case.values))
    export_onnx(model, tmp_path / "backbone.pt2", (64, 96), dynamic=True)
    program = torch.export.load(tmp_path / "backbone.pt2").module()
    for shape in ((1, 64, 64), (3, 33, 64)):
        images = torch.randn(shape[0], 3, *shape[1:])
        assert_same([x.detach().numpy() for x in program(images)], model, images)


class Small(nn.Module):
    """A network that is exported in a second."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, images):
        return self.conv(images), images.mean((2, 3))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


def test_a_fixed_file_and_its_report_are_written_together(small, tmp_path):
    report = export_onnx(small, tmp_path / "a.onnx", 32, metadata=dict(classes=["x"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.onnx"]
    assert json.loads((tmp_path / "a.json").read_text()) == report
    assert report["size"] == [32, 32]
    assert report["bytes"] == (tmp_path / "a.onnx").stat().st_size
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["hybrid_backbones.classes"]) == ["x"]
    assert session.get_inputs()[0].shape == [1, 3, 32, 32]


def test_a_program_of_torch_export_is_written_too(small, tmp_path):
    export_onnx(small, tmp_path / "a.pt2", (32, 40), dynamic=True)
    images = torch.randn(3, 3, 50, 41)
    program = torch.export.load(tmp_path / "a.pt2").module()
    torch.testing.assert_close(program(images), small(images))


def test_a_merged_network_is_compared_with_the_trained_one(tmp_path, monkeypatch):
    model = randomise(nn.Sequential(XVolution(3, 4)))
    merged = export_onnx(model, tmp_path / "a.pt2", 16)["operators"]
    trained = export_onnx(model, tmp_path / "c.pt2", 16, fuse=False)["operators"]
    # query, key and value are one convolution, and no normalisation is left
    assert merged["aten.conv2d.default"] < trained["aten.conv2d.default"]
    assert "aten.batch_norm.default" in trained
    assert "aten.batch_norm.default" not in merged
    merge = XVolution.merge

    def merge_badly(module):
        merged = merge(module)
        merged.conv.bias.data += 0.1
        return merged

    monkeypatch.setattr(XVolution, "merge", merge_badly)
    with pytest.raises(ValueError, match="differs from PyTorch: output_0"):
        export_onnx(model, tmp_path / "b.pt2", 16)
    export_onnx(model, tmp_path / "b.pt2", 16, fuse=False)


class Branching(Small):
    """A network whose graph is only right at the size that was recorded."""

    def forward(self, images):
        return images * (1 if images.shape[2] % 64 == 0 else 2), images.mean((2, 3))


def test_a_file_that_differs_at_another_size_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="differs from PyTorch: output_0"):
        export_onnx(Branching(), tmp_path / "a.onnx", 64, dynamic=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", ["a.onnx", "a.json"])
def test_nothing_is_overwritten_unless_asked(small, tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ValueError, match=f"{existing} exists: choose another name"):
        export_onnx(small, tmp_path / "a.onnx", 32)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    export_onnx(small, tmp_path / "a.onnx", 32, force=True)
    assert (tmp_path / "a.onnx").stat().st_size > 100


def test_a_mistake_is_said_before_the_work(small, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end with \.onnx or \.pt2, got .*a\.pb"):
        export_onnx(small, tmp_path / "a.pb", 32)
    with pytest.raises(ValueError, match="size must be one or two positive numbers"):
        export_onnx(small, tmp_path / "a.onnx", (32, 0))
    with pytest.raises(ValueError, match=r"precision must be one of .*float16, .*got 'fp16'"):
        export_onnx(small, tmp_path / "a.onnx", 32, precision="fp16")
    with pytest.raises(ValueError, match="int8 needs images for its calibration"):
        export_onnx(small, tmp_path / "a.onnx", 32, precision="int8")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot write .*file/a\.onnx"):
        export_onnx(small, tmp_path / "file/a.onnx", 32)
    with pytest.raises(ValueError, match="cannot take images of 2x2 pixels"):
        export_onnx(small, tmp_path / "a.onnx", 2)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="onnx, onnxscript, onnxruntime not installed: pip"):
        export_onnx(small, tmp_path / "a.onnx", 32)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Unexportable(Small):
    """A network that depends on the values of the images."""

    def forward(self, images):
        return images if images.sum() > 0 else -images


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="PyTorch cannot export the model: ") as error:
        export_onnx(Unexportable(), tmp_path / "a.onnx", 32)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_error_of_an_output_is_relative_and_sees_wrong_shapes():
    one = np.ones((2, 2), np.float32)
    assert relative_error(10 * one, torch.full((2, 2), 8.0).numpy()) == 0.25
    assert relative_error(one[:1], one) == float("inf")
    assert np.isnan(relative_error(one * np.nan, one))
    labels = Tensor([0, 1, 2, 3]).long().numpy()
    assert relative_error(np.array([0, 1, 2, 2]), labels) == 0.25
