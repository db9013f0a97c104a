"""What the form of an exported model leaves out of its framework's prediction is noticed."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from detector_cases import build, small_config
from export_cases import small_classifier, small_segmentor
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ClsHead, MultiLabelLinearClsHead

from hybrid_backbones.checkpoints import PUBLISHED, fetch
from hybrid_backbones.deploy import whole
from hybrid_backbones.deploy.calibration import read_folder
from hybrid_backbones.deploy.detectors import Detector
from hybrid_backbones.deploy.host import require_same_prediction
from hybrid_backbones.deploy.whole import Classifier, Normalisation, Segmentor, export_trained

SIZE = (70, 90)


@pytest.fixture(autouse=True)
def _alone():
    with DefaultScope.overwrite_default_scope(None):
        yield


@pytest.fixture
def exported(monkeypatch):
    """What would be written: `export_trained` without the work that follows its checks."""
    monkeypatch.setattr(whole, "export_onnx", lambda *given, **options: options["metadata"])


def small_detector(repository, mini_root, folder, **rcnn):
    cfg = small_config(repository, mini_root, "mask")
    cfg.model.test_cfg.rcnn.update(rcnn)
    torch.save(dict(state_dict=build(cfg).state_dict()), folder / "small.pth")
    return cfg


def test_a_classifier_is_exported_as_its_framework_predicts(repository, tmp_path, monkeypatch):
    model, cfg = small_classifier(repository, tmp_path)
    images = torch.randint(256, (1, 3, *SIZE), dtype=torch.uint8)
    normalise = Normalisation(cfg.data_preprocessor)
    model.data_preprocessor = MODELS.build(dict(cfg.data_preprocessor, type="ClsDataPreprocessor"))
    require_same_prediction(model, Classifier(model, normalise), images)
    own = ClsHead._get_predictions
    monkeypatch.setattr(ClsHead, "_get_predictions", lambda self, x, given: own(self, 2 * x, given))
    with pytest.raises(ValueError, match=r"the error of probabilities is .*; add --backbone"):
        require_same_prediction(model, Classifier(model, normalise), images)


def test_labels_that_the_framework_changes_are_noticed(repository, tmp_path, exported, monkeypatch):
    model, cfg = small_segmentor(repository, tmp_path)
    paths = tmp_path / "small.pth", tmp_path / "a.pt2"
    assert export_trained(cfg, *paths, SIZE)["task"] == "segment"
    own = type(model).postprocess_result

    def changed(self, *given):
        samples = own(self, *given)
        for sample in samples:
            sample.pred_sem_seg.data[:, 0] += 1
        return samples

    monkeypatch.setattr(type(model), "postprocess_result", changed)
    with pytest.raises(ValueError, match="what the framework does: the error of labels is"):
        export_trained(cfg, *paths, SIZE)


def test_a_detector_is_exported_as_its_framework_predicts(
    repository, mini_root, tmp_path, exported
):
    cfg = small_detector(repository, mini_root, tmp_path)
    paths = tmp_path / "small.pth", tmp_path / "a.pt2"
    assert export_trained(cfg, *paths, SIZE)["task"] == "detect"
    cfg.model.data_preprocessor.update(pad_value=100)
    with pytest.raises(ValueError, match=r"share of unmatched objects is .* add --no-postprocess"):
        export_trained(cfg, *paths, SIZE)


def test_a_size_that_the_model_cannot_take_is_named(repository, tmp_path):
    model, cfg = small_classifier(repository, tmp_path)
    model.head.fc = torch.nn.Sequential(model.head.fc, torch.nn.Unflatten(1, (5, 5)))
    form = Classifier(model, Normalisation(cfg.data_preprocessor))
    images = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the model cannot take images of 70x90 pixels"):
        require_same_prediction(model, form, images)


def test_a_segmentor_without_a_preprocessor_is_exported(repository, tmp_path):
    model, _ = small_segmentor(repository, tmp_path)
    model.data_preprocessor = MODELS.build(dict(type="mmengine.BaseDataPreprocessor"))
    images = torch.randint(256, (1, 3, *SIZE), dtype=torch.uint8)
    form = Segmentor(model, lambda x: x.flip(1).float())
    require_same_prediction(model, form, images)
    form.normalise = lambda x: x.float()
    with pytest.raises(ValueError, match="the error of labels is"):
        require_same_prediction(model, form, images)


def test_the_threshold_of_masks_is_that_of_the_config(repository, mini_root, tmp_path, exported):
    cfg = small_detector(repository, mini_root, tmp_path, mask_thr_binary=0.3)
    metadata = export_trained(cfg, tmp_path / "small.pth", tmp_path / "a.pt2", SIZE)
    assert metadata["mask_threshold"] == 0.3


def test_a_detector_takes_images_of_one_pixel(repository, mini_root, tmp_path, exported):
    cfg = small_detector(repository, mini_root, tmp_path)
    paths = tmp_path / "small.pth", tmp_path / "a.pt2"
    for size in ((1, 1), (1, 40), (2, 2)):
        assert export_trained(cfg, *paths, size)["task"] == "detect"


def test_scores_that_are_no_softmax_are_refused(repository, mini_root):
    cfg = small_config(repository, mini_root, "mask")
    head = cfg.model.roi_head.bbox_head
    head.loss_cls = dict(type="SeesawLoss", num_classes=head.num_classes)
    model = build(cfg)
    with pytest.raises(
        ValueError, match=r"scores of SeesawLoss are not exported.*--no-postprocess"
    ):
        Detector(model, Normalisation({}))


def test_several_labels_of_an_image_are_refused(repository, tmp_path):
    model, _ = small_classifier(repository, tmp_path)
    model.head = MultiLabelLinearClsHead(num_classes=6, in_channels=16)
    with pytest.raises(ValueError, match="MultiLabelLinearClsHead is not exported: add --backbone"):
        Classifier(model, Normalisation({}))


@pytest.mark.parametrize("turned", [{}, dict(bgr_to_rgb=True), dict(rgb_to_bgr=True)], ids=str)
def test_the_normalisation_is_mmengines(turned):
    settings = dict(mean=[1.0, 20, 90], std=[2.0, 7, 50]) | turned
    images = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    host = MODELS.build(dict(settings, type="mmengine.ImgDataPreprocessor"))
    expected = host(dict(inputs=images.flip(1)))["inputs"]
    torch.testing.assert_close(Normalisation(settings)(images), expected)


def test_the_hash_is_that_of_the_file_that_was_loaded(repository, tmp_path, exported, monkeypatch):
    _, cfg = small_classifier(repository, tmp_path)
    content = (tmp_path / "small.pth").read_bytes()
    name = next(iter(PUBLISHED))
    monkeypatch.setattr(fetch, "_cached", lambda _: tmp_path / "small.pth")
    # a file of the same name does not count
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("another file")
    for given in (name, "https://example.org/small.pth", "small.pth"):
        metadata = export_trained(cfg, given, "a.pt2", SIZE)
        assert metadata["checkpoint_sha256"] == sha256(content).hexdigest()


def test_a_folder_without_a_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no folder '': expected one of images"):
        read_folder("", None)
