"""The hosts' own inferencers predict with every config of ours what our own pipeline predicts."""

import re
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.datasets import ADE20KDataset
from PIL import Image
from tiers import one_of_each
from tool_runs import run_warm, train

from hybrid_backbones.inference.demo import predict
from hybrid_backbones.locformer.demo import read_sketch

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
REAL = ROOT.parent / "shared/realdata/coco/val2017"
INFERENCERS = dict(
    mmdet=DetInferencer, mmseg=MMSegInferencer, mmpretrain=ImageClassificationInferencer
)
# every kind of head; the large ones are slow on a CPU
DETECTORS = [
    *("maskrcnn_uniformer_xxs", "retinanet_swiftformer_l1"),
    *(
        pytest.param(name, marks=pytest.mark.exhaustive)
        for name in ("cascade_maskrcnn_r50", "fasterrcnn_xvolution_r50", "maskrcnn_acmix_swin_t")
    ),
]
SEGMENTORS = [
    "fpn_uniformer_xxs",
    pytest.param("upernet_mixformer_b1", marks=pytest.mark.exhaustive),
    pytest.param("upernet_acmix_r26", marks=pytest.mark.exhaustive),
]
CLASSIFIERS = [
    *("imagenet_swiftformer_xs", "imagenet_mixformer_b0", "imagenet_uniformer_xxs"),
    *(
        pytest.param(name, marks=pytest.mark.exhaustive)
        for name in ("imagenet_biformer_stl", "imagenet_acmix_swin_t", "imagenet_xvolution_r34_sa")
    ),
]
# a small size, and boxes of a network that has learnt nothing
SMALL = {
    "mmdet": {"test_dataloader.dataset.pipeline.1.scale": (320, 192)},
    "mmseg": {
        "test_dataloader.dataset.pipeline.1.scale": (256, 128),
        "test_pipeline.1.scale": (256, 128),
    },
    "mmpretrain": {},
}
META = dict(
    mmdet=dict(classes=[f"object {i}" for i in range(80)]),
    mmseg=ADE20KDataset.METAINFO,
    mmpretrain=dict(classes=[f"class {i}" for i in range(1000)]),
)


@pytest.fixture(scope="module")
def pictures(mini_root, tmp_path_factory):
    """A folder of two photographs where they are, else of two pictures of the mini set."""
    source = REAL if REAL.is_dir() else mini_root / "coco/val2017"
    folder = tmp_path_factory.mktemp("pictures")
    for path in sorted(source.iterdir())[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def prepare(name, folder):
    """Return a config, as it is but for its size, and a checkpoint of random weights for it."""
    cfg = Config.fromfile(ROOT / f"configs/{name}.py")
    cfg.merge_from_dict(SMALL[cfg.default_scope])
    cfg.model.backbone.init_cfg = None
    if cfg.default_scope == "mmdet":
        test_cfg = cfg.model.test_cfg.get("rcnn", cfg.model.test_cfg)
        test_cfg.update(score_thr=0.0, max_per_img=5)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    checkpoint = folder / f"{name}.pth"
    meta = dict(dataset_meta=META[cfg.default_scope])
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    path = folder / f"{name}.py"
    cfg.dump(path)
    return str(path), str(checkpoint)


def ours(config, checkpoint, pictures):
    """Return the predictions of our own command, by file name."""
    cfg = Config.fromfile(config)
    found = predict(cfg, sorted(pictures.iterdir()), checkpoint, "cpu")
    return {path.name: prediction for path, _, prediction in found}


def assert_same_objects(got, expected):
    torch.testing.assert_close(torch.tensor(got["bboxes"]), expected.pred_instances.bboxes)
    torch.testing.assert_close(torch.tensor(got["scores"]), expected.pred_instances.scores)
    assert got["labels"] == expected.pred_instances.labels.tolist()


@pytest.mark.upstream
@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_in_files_arrays_and_folders_what_our_demo_finds(name, pictures, tmp_path):
    config, checkpoint = prepare(name, tmp_path)
    expected = ours(config, checkpoint, pictures)
    inferencer = DetInferencer(config, checkpoint, device="cpu", show_progress=False)
    folder = inferencer(str(pictures), batch_size=2, out_dir=str(tmp_path / "drawn"))
    assert len(folder["predictions"]) == 2
    files = sorted(pictures.iterdir())
    listed = inferencer([str(path) for path in files])["predictions"]
    arrays = inferencer([mmcv.imread(path, backend="pillow") for path in files])["predictions"]
    for path, one, other in zip(files, listed, arrays, strict=True):
        assert len(one["bboxes"]) == 5
        assert_same_objects(one, expected[path.name])
        assert_same_objects(other, expected[path.name])
        with Image.open(tmp_path / "drawn/vis" / path.name) as drawn, Image.open(path) as picture:
            assert drawn.size == picture.size


@pytest.mark.upstream
def test_init_detector_and_inference_detector_take_files_and_arrays(pictures, tmp_path):
    config, checkpoint = prepare("maskrcnn_uniformer_xxs", tmp_path)
    expected = ours(config, checkpoint, pictures)
    model = init_detector(config, checkpoint, device="cpu")
    assert model.dataset_meta["classes"] == META["mmdet"]["classes"]
    path = min(pictures.iterdir())
    for image in (str(path), mmcv.imread(path, backend="pillow")):
        found = inference_detector(model, image).pred_instances
        want = expected[path.name].pred_instances
        torch.testing.assert_close(found.bboxes, want.bboxes)
        assert torch.equal(found.masks, want.masks)


@pytest.mark.upstream
@pytest.mark.parametrize("name", SEGMENTORS)
def test_a_segmentor_labels_files_arrays_and_folders_as_our_demo_does(name, pictures, tmp_path):
    config, checkpoint = prepare(name, tmp_path)
    expected = ours(config, checkpoint, pictures)
    inferencer = MMSegInferencer(config, checkpoint, device="cpu")
    files = sorted(pictures.iterdir())
    arrays = [mmcv.imread(path, backend="pillow") for path in files]
    for inputs in ([*map(str, files)], arrays):
        found = inferencer(inputs, out_dir=str(tmp_path / "drawn"))["predictions"]
        for path, labels in zip(files, found, strict=True):
            want = expected[path.name].pred_sem_seg.data[0].numpy()
            np.testing.assert_array_equal(labels, want)
    assert (tmp_path / "drawn/vis" / files[0].name).exists()
    assert len(inferencer(str(pictures))["predictions"]) == 2
    model = init_model(config, checkpoint, device="cpu")
    for image in (str(files[0]), arrays[0]):
        found = inference_model(model, image).pred_sem_seg.data
        assert torch.equal(found, expected[files[0].name].pred_sem_seg.data)


@pytest.mark.upstream
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_scores_files_and_arrays_as_our_demo_does(name, pictures, tmp_path):
    config, checkpoint = prepare(name, tmp_path)
    expected = ours(config, checkpoint, pictures)
    inferencer = ImageClassificationInferencer(config, checkpoint, device="cpu")
    files = sorted(pictures.iterdir())
    arrays = [mmcv.imread(path) for path in files]
    for inputs in ([*map(str, files)], arrays):
        found = inferencer(inputs, show_dir=tmp_path / "drawn", batch_size=2)
        for path, one in zip(files, found, strict=True):
            # mmpretrain decodes with OpenCV, which may round a pixel otherwise than Pillow
            scores = expected[path.name].pred_score
            torch.testing.assert_close(torch.tensor(one["pred_scores"]), scores, rtol=0.1, atol=0.0)
            assert one["pred_class"] == f"class {one['pred_label']}"
    assert (tmp_path / "drawn" / files[0].with_suffix(".png").name).exists()
    extractor = FeatureExtractor(config, checkpoint, device="cpu")
    # of files, since OpenCV decodes the file as it decodes the array
    for one, other in zip(extractor([*map(str, files)]), extractor(arrays), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_a_detector_by_sketch_takes_its_sketch_with_the_image(pictures, tmp_path):
    cfg = Config.fromfile(ROOT / "configs/locformer_uniformer_s.py")
    cfg.merge_from_dict(SMALL["mmdet"])
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(tmp_path / "line.png")
    sketches = read_sketch(cfg, str(tmp_path / "line.png"))
    inferencer = DetInferencer(cfg, device="cpu", show_progress=False)
    path = min(pictures.iterdir())
    for image in (dict(img_path=str(path)), dict(img=mmcv.imread(path))):
        (found,) = inferencer([dict(image, sketches=sketches)])["predictions"]
        assert len(found["bboxes"]) == 100
    with pytest.raises(ValueError, match=r"searches by sketch.*read_sketch"):
        inferencer(str(path))


@pytest.mark.parametrize("config", one_of_each(CONFIGS))
def test_the_inferencer_of_the_host_finds_its_way_through_every_pipeline(config, pictures):
    cfg = Config.fromfile(config)
    image = str(min(pictures.iterdir()))
    kind = INFERENCERS[cfg.default_scope]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        # without a model, which would take seconds
        pipeline = kind._init_pipeline(object.__new__(kind), cfg)
    if cfg.default_scope == "mmpretrain":
        # mmpretrain loads the image itself
        items = [dict(img=mmcv.imread(image), img_shape=(1, 1), ori_shape=(1, 1))]
    elif config.stem.startswith("locformer"):
        items = [dict(img_path=image, sketches=np.zeros((1, 8, 8), np.uint8))]
    else:
        items = [image, mmcv.imread(image, backend="pillow")]
    packed = [pipeline(item) for item in items]
    assert all(item["inputs"].shape[0] == 3 for item in packed)
    assert torch.equal(packed[0]["inputs"], packed[-1]["inputs"])


@pytest.mark.upstream
@pytest.mark.parametrize("kind", ["mmdet", "mmseg"])
def test_an_inferencer_refuses_a_cut_file_and_names_it(kind, pictures, tmp_path):
    name = dict(mmdet="maskrcnn_uniformer_xxs", mmseg="fpn_uniformer_xxs")[kind]
    cfg = Config.fromfile(ROOT / f"configs/{name}.py")
    with DefaultScope.overwrite_default_scope(kind):
        pipeline = INFERENCERS[kind]._init_pipeline(object.__new__(INFERENCERS[kind]), cfg)
    cut = tmp_path / "cut.jpg"
    Image.new("RGB", (64, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.jpg is truncated"):
        pipeline(str(cut))


@pytest.mark.upstream
def test_the_strict_decoder_leaves_those_of_mmcv_as_they_are(pictures):
    path = str(min(pictures.iterdir()))
    stock = TRANSFORMS.build(dict(type="LoadImageFromFile", color_type="grayscale"))
    expected = mmcv.imread(path, flag="grayscale")
    assert expected.ndim == 2
    np.testing.assert_array_equal(stock(dict(img_path=path))["img"], expected)
    strict = dict(type="LoadImageFromFile", imdecode_backend="strict")
    assert TRANSFORMS.build(dict(strict, to_float32=True))(dict(img_path=path))["img"].dtype == (
        np.float32
    )
    with pytest.raises(ValueError, match=r"leave out color_type"):
        TRANSFORMS.build(dict(strict, color_type="grayscale"))(dict(img_path=path))


@pytest.mark.slow
@pytest.mark.upstream
def test_the_first_lines_of_the_readme_draw_a_prediction(pictures, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(
        r"```python\n(import hybrid_backbones\nfrom mmdet.*?)```", text, re.DOTALL
    )
    assert len(example.split("\n\n")) == 2
    assert len(list(filter(None, example.splitlines()))) == 4
    path = Path(re.search(r'weights="(.*?)"', example)[1])
    picture = Path(re.search(r'image = "(.*?)"', example)[1])
    assert (ROOT / picture).is_file()
    options = ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=4"]
    options += ["val_dataloader.dataset.indices=1"]
    config = "configs/maskrcnn_uniformer_xxs.py"
    code, _, err = run_warm(*train(tmp_path / path.parent, config=config, options=options))
    assert code == 0, err
    (tmp_path / path.parent / "epoch_1.pth").rename(tmp_path / path)
    (tmp_path / picture.parent).mkdir(parents=True)
    Image.open(min(pictures.iterdir())).save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    with Image.open(f"drawn/vis/{picture.name}") as drawn, Image.open(picture) as image:
        assert drawn.size == image.size
