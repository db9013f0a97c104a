"""An exported file is drawn and evaluated as the model that predicts the same."""

import numpy as np
import pytest
import torch
from demo_cases import noise, read, sample_of, visualizer_of
from export_mistakes import a_package
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.deploy import export_onnx
from hybrid_backbones.deploy.accuracy import measure_accuracy
from hybrid_backbones.deploy.predictions import demo_file
from hybrid_backbones.inference.demo import draw
from hybrid_backbones.mini.preset import apply_mini

HEIGHT, WIDTH = 40, 60
META = dict(classes=["red", "green", "blue"], palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]])
MASKS = torch.ones(1, 28, 28)
BOX = torch.tensor([[0.25 * WIDTH, 0.25 * HEIGHT, 0.75 * WIDTH, 0.75 * HEIGHT]])
# config of a model, task and what its file gives
OUTPUTS = {
    "imagenet_swiftformer_xs": ("classify", dict(probabilities=torch.ones(1, 1))),
    "fpn_uniformer_xxs": ("segment", dict(labels=torch.full((1, HEIGHT, WIDTH), 2))),
    "maskrcnn_uniformer_xxs": (
        "detect",
        dict(boxes=BOX, labels=torch.tensor([1]), scores=torch.tensor([0.9]), masks=MASKS),
    ),
}
LABELS = dict(classify=0, segment=2, detect=1)


class Constant(nn.Module):
    """A network that predicts the same of every image."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = nn.ParameterList(
            nn.Parameter(output, requires_grad=False) for output in outputs
        )

    def forward(self, images):
        zero = (images[0, 0, 0, 0] * 0).long()
        return tuple(output + zero for output in self.outputs)


@pytest.fixture(autouse=True)
def _alone():
    with DefaultScope.overwrite_default_scope(None):
        yield


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_picture_is_that_of_the_model(repository, tmp_path, kind):
    task, outputs = OUTPUTS[kind]
    file, image, out = (tmp_path / name for name in ("a.pt2", "image.png", "out.png"))
    export_onnx(
        Constant(outputs.values()),
        file,
        (HEIGHT, WIDTH),
        example=lambda *shape: torch.zeros(shape[0], 3, *shape[1:], dtype=torch.uint8),
        output_names=list(outputs),
        metadata=dict(META, task=task, preprocessing=dict(resize=None)),
    )
    pixels = noise(WIDTH, HEIGHT)
    Image.fromarray(pixels).save(image)
    assert demo_file(file, image, out) == [out]
    visualizer = visualizer_of(read(repository, kind), tmp_path, meta=dict(dataset_meta=META))
    sample = sample_of(kind, WIDTH, HEIGHT, LABELS[task])
    # mmdet varies the colours of masks at random
    np.random.seed(0)
    expected = draw(visualizer, pixels, sample, 0.3)
    assert np.array_equal(np.asarray(Image.open(out).convert("RGB")), expected)
    if task == "detect":
        demo_file(file, image, out, score_thr=0.95)
        nothing = draw(visualizer, pixels, sample_of(kind, WIDTH, HEIGHT, 1), 0.95)
        assert np.array_equal(np.asarray(Image.open(out).convert("RGB")), nothing)
        assert not np.array_equal(nothing, expected)


def test_a_compiled_program_is_opened_only_where_code_may_run(tmp_path, monkeypatch):
    file, image, opened = a_package(tmp_path), tmp_path / "image.png", []
    Image.fromarray(noise(WIDTH, HEIGHT)).save(image)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", opened.append)
    with guard_loads(), pytest.raises(ValueError, match=r"add --dangerously-run-code-in-checkpoi"):
        demo_file(file, image, tmp_path / "out.png")
    assert not opened
    with guard_loads(run_code=True), pytest.raises(ValueError, match="cannot be opened"):
        demo_file(file, image, tmp_path / "out.png")
    assert opened == [str(file)]


@pytest.mark.parametrize("kind", ["imagenet_swiftformer_xs", "fpn_uniformer_xxs"])
def test_accuracy_is_that_of_the_framework(repository, mini_root, kind):
    cfg = Config.fromfile(repository / f"configs/{kind}.py")
    apply_mini(cfg, mini_root)
    seen = []

    def constant(pixels):
        seen.append(pixels)
        if kind.startswith("imagenet"):
            return dict(probabilities=np.eye(6, dtype=np.float32)[3])
        return dict(labels=np.zeros(pixels.shape[:2], np.int64))

    task = OUTPUTS[kind][0]
    metrics = measure_accuracy(cfg, task, constant)
    if task == "classify":
        # each class has as many images
        assert metrics == {"accuracy/top1": pytest.approx(100 / 6, abs=0.01)}
        assert len(seen) == 60
    else:
        assert 10 < metrics["mIoU"] < 20
    # RGB, as the file takes it
    path = sorted((mini_root / "imagenet/val").glob("*/*.png"))[0]
    if task == "classify":
        assert np.array_equal(seen[0], np.asarray(Image.open(path).convert("RGB")))
