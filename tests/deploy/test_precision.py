"""Files in fewer bits are smaller, nearly right, and not kept if they are not."""

import numpy as np
import pytest
import torch
from torch import nn

from hybrid_backbones.deploy import ExportedModel, compare, export_onnx, run
from hybrid_backbones.deploy.compare import BOUNDS, pair, require_accuracy

pytest.importorskip("onnxruntime", reason="needs the extra deploy")
onnx = pytest.importorskip("onnx", reason="needs the extra deploy")
METADATA = dict(task="classify", classes=list("abcd"), preprocessing=dict(resize=None))


class Network(nn.Module):
    """A classifier with what is hard in few bits: a normalisation and a softmax."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, stride=2)
        self.norm = nn.LayerNorm(64)
        self.fc = nn.Linear(64, 4)
        self.backbone = nn.Conv2d(64, 64, 1)

    def forward(self, images):
        features = self.conv(images.to(self.conv.weight.dtype) / 128 - 1).relu()
        features = self.backbone(features).mean((2, 3))
        logits = self.fc(self.norm(features))
        return logits, logits.softmax(1)


class Boxes(Network):
    """A detector whose boxes are whole pixels of a large image."""

    def forward(self, images):
        logits, scores = super().forward(images)
        corner = 1333 + 0 * logits[0, 0].round()
        boxes = (torch.arange(4.0) * corner)[None]
        return boxes, scores[:1, 0].sigmoid()


def example(batch, height, width):
    return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)


def export(out, model=None, **options):
    torch.manual_seed(0)
    options = dict(output_names=("logits", "probabilities"), metadata=METADATA) | options
    return export_onnx((model or Network)(), out, 32, example=example, **options)


@pytest.fixture(scope="module")
def calibration():
    torch.manual_seed(1)
    return [example(1, 32, 32) for _ in range(8)]


def weight_types(path):
    kinds = (one.data_type for one in onnx.load(path).graph.initializer if len(one.dims) > 1)
    return {onnx.TensorProto.DataType.Name(kind) for kind in kinds}


def test_float16_halves_the_file_and_keeps_inputs_and_outputs(tmp_path):
    whole = export(tmp_path / "a.onnx")
    half = export(tmp_path / "b.onnx", precision="float16")
    assert weight_types(tmp_path / "b.onnx") == {"FLOAT16"}
    assert half["bytes"] < 0.7 * whole["bytes"]
    assert half["precision"] == "float16"
    # not exactly the same, or nothing was halved
    assert 0 < half["errors"]["logits"] <= half["bounds"]["logits"] == BOUNDS["float16"].numbers
    assert "conversions" in half["remarks"][0]
    pixels = example(1, 32, 32)[0].permute(1, 2, 0).numpy()
    one, other = (run(tmp_path / name, pixels) for name in ("a.onnx", "b.onnx"))
    assert other["logits"].dtype == np.float32
    np.testing.assert_allclose(one["logits"], other["logits"], atol=0.02)


def test_a_program_in_float16_gives_float32(tmp_path):
    report = export(tmp_path / "a.pt2", precision="float16")
    assert 0 < report["errors"]["logits"] <= BOUNDS["float16"].numbers
    program = torch.export.load(tmp_path / "a.pt2")
    assert {x.dtype for x in program.state_dict.values()} == {torch.float16}
    logits, _ = program.module()(example(1, 32, 32))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_coordinates_of_boxes_stay_in_float32(tmp_path, ending):
    names, out = ("boxes", "scores"), tmp_path / f"a.{ending}"
    report = export(out, Boxes, precision="float16", output_names=names)
    # 3999 is no number of float16
    assert report["errors"]["boxes"] == 0
    assert report["errors"]["unpaired"] == 0
    assert report["errors"]["scores"] > 0
    if ending == "onnx":
        assert weight_types(out) == {"FLOAT", "FLOAT16"}


def test_int8_is_calibrated_and_nearly_as_accurate(tmp_path, calibration):
    seen = []

    def evaluate(predict):
        pixels = [batch[0].permute(1, 2, 0).numpy() for batch in calibration]
        seen.append(np.stack([predict(one)["logits"] for one in pixels]))
        return dict(top1=float((seen[-1].argmax(1) == seen[0].argmax(1)).mean()))

    report = export(
        tmp_path / "a.onnx", precision="int8", calibration=calibration, evaluate=evaluate
    )
    assert {"INT8"} <= weight_types(tmp_path / "a.onnx")
    assert report["operators"]["QuantizeLinear"] > 2
    assert 0 < report["errors"]["logits"] <= report["bounds"]["logits"] == BOUNDS["int8"].numbers
    # the model first, then its file
    model, file = seen
    assert 0 < np.abs(model - file).max() < 0.2 * np.abs(model).max()
    assert report["accuracy"] == dict(top1=dict(before=1.0, after=1.0))
    assert ExportedModel(tmp_path / "a.onnx").metadata["precision"] == "int8"


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_file_that_differs_too_much_is_not_kept(tmp_path, monkeypatch, calibration, precision):
    monkeypatch.setitem(BOUNDS, precision, compare.Bounds(1e-7, 1e-7, 1e-7))
    with pytest.raises(ValueError, match=r"differs from PyTorch: logits by .* nothing was written"):
        export(tmp_path / "a.onnx", precision=precision, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_a_file_that_loses_accuracy_is_not_kept(tmp_path, calibration):
    values = iter([dict(mIoU=50.0), dict(mIoU=44.0)])
    with pytest.raises(ValueError, match=r"mIoU falls from 50 to 44, where 10% may be lost"):
        export(
            tmp_path / "a.onnx",
            precision="int8",
            calibration=calibration,
            evaluate=lambda _: next(values),
        )
    assert not list(tmp_path.iterdir())
    require_accuracy(dict(mIoU=dict(before=50.0, after=45.0)))


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.onnx", dict(aot=True), r"--aot writes packages that end with \.pt2"),
        ("a.pt2", dict(precision="int8"), "--int8 is for ONNX: expected .*onnx"),
    ],
)
def test_what_a_format_lacks_is_said_before_the_work(tmp_path, out, options, message):
    with pytest.raises(ValueError, match=message):
        export(tmp_path / out, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_a_package_of_aotinductor_is_run_and_compared(tmp_path):
    report = export(tmp_path / "a.pt2", aot=True, time_compiled=True)
    assert report["format"] == "AOTInductor"
    assert report["errors"]["logits"] <= 1e-4
    assert report["milliseconds"]["compiled"] > 0
    assert ExportedModel(tmp_path / "a.pt2").metadata["classes"] == list("abcd")
    pixels = example(1, 32, 32)[0].permute(1, 2, 0).numpy()
    assert run(tmp_path / "a.pt2", pixels)["probabilities"].sum() == pytest.approx(1)


# `monkeypatch` would delete the setting instead of restoring it
@torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
def test_without_a_compiler_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"AOTInductor cannot compile .*C\+\+ compiler such as"):
        export(tmp_path / "a.pt2", aot=True)
    assert not list(tmp_path.iterdir())
    report = export(tmp_path / "a.pt2", time_compiled=True)
    assert report["milliseconds"]["compiled"].startswith("not measured: ")


def test_detections_are_paired_by_overlap_and_label():
    theirs = dict(
        boxes=np.array([[0, 0, 4, 4], [0, 0, 4, 4], [10, 10, 12, 12.0]]),
        labels=np.array([1, 2, 1]),
        scores=np.array([0.9, 0.8, 0.7]),
    )
    order = [2, 1, 0]
    ours = {name: values[order] for name, values in theirs.items()}
    one, other, unpaired = pair(ours, theirs)
    assert unpaired == 0
    assert all(np.array_equal(one[name], other[name]) for name in theirs)
    ours["labels"] = np.array([1, 3, 1])
    *_, unpaired = pair(ours, theirs)
    assert unpaired == pytest.approx(1 / 3)
    none = {name: values[:0] for name, values in theirs.items()}
    assert pair(none, none)[2] == 0
    assert pair(none, theirs)[2] == pair(theirs, none)[2] == 1


def test_masks_in_8_bits_are_compared_by_their_pixels():
    theirs = dict(boxes=np.array([[0, 0, 4, 4.0]]), scores=np.ones(1), masks=np.zeros((1, 4, 5)))
    ours = dict(theirs, masks=theirs["masks"].copy())
    # one pixel of twenty is inside on one side only, another differs and is outside on both
    ours["masks"][0, 0, :2] = 0.6, 0.4

    def errors(precision):
        batch, names = (torch.zeros(1, 3, 4, 4),), list(theirs)
        references = [tuple(torch.from_numpy(values) for values in theirs.values())]
        run = lambda _: list(ours.values())  # noqa: E731
        return compare.compare(run, [batch], references, names, BOUNDS[precision])

    assert errors("int8")["masks"] == (1 / 20, BOUNDS["int8"].labels)
    for precision in ("float32", "float16"):
        with pytest.raises(ValueError, match="differs from PyTorch: masks by"):
            errors(precision)
    theirs["masks"] = np.ones((1, 4, 5))
    with pytest.raises(ValueError, match=r"masks by 9.5e-01 .* 1e-01 is allowed"):
        errors("int8")
