"""An exported LocFormer finds what its own prediction finds, for any number of sketches."""

import pytest
import torch
from locformer_cases import SMALL_SWIN, SMALL_UNIFORMER, build, read_config, shrink
from mmdet.structures import DetDataSample
from mmengine.config import Config

from hybrid_backbones.deploy import run
from hybrid_backbones.deploy.locformer import SketchSearch
from hybrid_backbones.deploy.whole import Normalisation, export_trained
from hybrid_backbones.locformer.demo import sketch_size

SIZE = (97, 131)


def small(backbone=SMALL_SWIN, **head):
    cfg = read_config("locformer_swin_t")
    shrink(cfg, backbone, **head)
    cfg.test_cfg.max_per_img = 7
    torch.manual_seed(0)
    model = build(cfg).eval()
    # fresh heads predict the same for all queries
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return cfg, model


def inputs(num_sketches, size=SIZE):
    images = torch.randint(256, (1, 3, *size), dtype=torch.uint8)
    return images, torch.randint(256, (num_sketches, 3, 64, 64), dtype=torch.uint8)


def predict(model, images, sketches):
    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    data = dict(
        inputs=[images[0].flip(0)],
        sketches=[sketches],
        data_samples=[DetDataSample(metainfo=meta)],
    )
    with torch.no_grad():
        return model.test_step(data)[0].pred_instances


def assert_same(outputs, expected):
    boxes, scores = outputs
    torch.testing.assert_close(boxes, expected.bboxes, rtol=0, atol=1e-4 * max(SIZE))
    torch.testing.assert_close(scores, expected.scores, rtol=1e-4, atol=0)


@pytest.mark.parametrize("backbone", [SMALL_SWIN, SMALL_UNIFORMER], ids=["swin", "uniformer"])
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("num_sketches", [1, 3])
def test_the_graph_computes_the_models_prediction(backbone, released, num_sketches):
    cfg, model = small(backbone, released=released)
    case = inputs(num_sketches)
    expected = predict(model, *case)
    assert expected.scores.unique().numel() == len(expected) > 0
    search = SketchSearch(model, Normalisation(cfg.data_preprocessor)).eval()
    with torch.no_grad():
        assert_same(search(*case), expected)


@pytest.mark.slow
def test_a_program_takes_any_number_of_sketches():
    cfg, model = small()
    search = SketchSearch(model, Normalisation(cfg.data_preprocessor)).eval()
    shapes = ({}, {0: torch.export.Dim.DYNAMIC})
    with torch.no_grad():
        program = torch.export.export(search, inputs(2), dynamic_shapes=shapes, strict=False)
    case = inputs(3)
    assert_same(program.module()(*case), predict(model, *case))


def whole_config(repository, model):
    """Return a whole config of a small model, for sketches of 64 pixels."""
    cfg = Config.fromfile(repository / "configs/locformer_swin_t.py")
    cfg.model = model
    cfg.test_dataloader.dataset.pipeline[3].size = 64
    assert sketch_size(cfg) == 64
    return cfg


@pytest.mark.exhaustive
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_a_file_finds_what_the_model_predicts(repository, tmp_path, dynamic):
    settings, model = small()
    cfg = whole_config(repository, settings)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "a.pth")
    export_trained(cfg, tmp_path / "a.pth", tmp_path / "a.onnx", SIZE, dynamic=dynamic)
    for size in (SIZE, (64, 150)) if dynamic else (SIZE,):
        images, sketches = inputs(3 if dynamic else 1, size)
        pixels, *drawn = (x.permute(1, 2, 0).numpy() for x in (images[0], *sketches))
        outputs = run(tmp_path / "a.onnx", pixels, sketches=drawn)
        found = [torch.from_numpy(outputs[name]) for name in ("boxes", "scores")]
        assert_same(found, predict(model, images, sketches))


def test_what_a_search_by_sketch_has_no_file_of_is_one_line(repository, tmp_path):
    settings, model = small()
    cfg = whole_config(repository, settings)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "a.pth")
    paths = tmp_path / "a.pth", tmp_path / "a.onnx"
    with pytest.raises(ValueError, match="exported whole: leave --backbone-only"):
        export_trained(cfg, *paths, SIZE, backbone_only=True)
    with pytest.raises(ValueError, match="exported whole: leave --backbone-only"):
        export_trained(cfg, *paths, SIZE, postprocess=False)
    with pytest.raises(ValueError, match="--int8 calibrates on images without sketches"):
        export_trained(cfg, *paths, SIZE, precision="int8")
    assert not paths[1].exists()
