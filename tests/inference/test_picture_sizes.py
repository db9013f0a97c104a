"""Pictures of mini runs are wide enough to be looked at, whoever draws them."""

import numpy as np
import pytest
import torch
from demo_cases import save_network
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from tiers import few_of
from tool_runs import run_warm

from hybrid_backbones.inference.enlarged_detections import EnlargedDetVisualizer
from hybrid_backbones.inference.enlarged_maps import EnlargedSegVisualizer
from hybrid_backbones.mini.preset import apply_mini

pytestmark = pytest.mark.upstream
META = dict(classes=("disc", "ring"), palette=[(255, 0, 0), (0, 0, 255)])
KINDS = (
    "maskrcnn_uniformer_xxs",
    "fpn_uniformer_xxs",
    "imagenet_swiftformer_xs",
    "locformer_swin_t",
)


def detections(width, height, masks):
    box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
    mask = np.zeros((1, height, width), np.uint8)
    mask[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    truth = InstanceData(bboxes=HorizontalBoxes(box), labels=torch.tensor([0]))
    found = InstanceData(bboxes=box, labels=torch.tensor([1]), scores=torch.tensor([0.9]))
    if masks:
        truth.masks = BitmapMasks(mask, height, width)
        found.masks = torch.from_numpy(mask).bool()
    return DetDataSample(gt_instances=truth, pred_instances=found)


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize(("width", "height"), [(128, 96), (96, 128), (700, 300)])
def test_boxes_and_masks_are_enlarged_with_the_image(tmp_path, width, height, masks):
    visualizer, sample = EnlargedDetVisualizer(name="sizes"), detections(width, height, masks)
    visualizer.dataset_meta = META
    image = np.full((height, width, 3), 255, np.uint8)
    visualizer.add_datasample("", image, sample, out_file=str(tmp_path / "drawn.png"))
    pixels = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(int)
    shown = pixels.shape[1] // 2
    assert shown >= 512
    assert shown * height == pixels.shape[0] * width
    for half in (pixels[:, :shown], pixels[:, shown:]):
        rows, columns = np.nonzero((half != 255).any(2))
        places = (rows / half.shape[0], columns / half.shape[1])
        for place in places:
            assert abs(place.min() - 0.25) < 0.02
            assert abs(place.max() - 0.75) < 0.02
    # what is drawn belongs to the caller
    assert sample.pred_instances.bboxes.max() == 0.75 * max(width, height)


def test_an_image_without_detections_is_drawn(tmp_path):
    visualizer, sample = EnlargedDetVisualizer(name="none"), detections(128, 96, True)
    visualizer.dataset_meta = META
    sample.pred_instances = sample.pred_instances[:0]
    image = np.full((96, 128, 3), 255, np.uint8)
    visualizer.add_datasample("", image, sample, out_file=str(tmp_path / "drawn.png"))
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.size == (1024, 384)


def test_label_maps_are_enlarged_with_the_image(tmp_path):
    visualizer = EnlargedSegVisualizer(name="maps", alpha=1.0)
    visualizer.dataset_meta = META
    labels = torch.zeros(1, 96, 128, dtype=torch.long)
    labels[:, :48] = 1
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), pred_sem_seg=PixelData(data=labels))
    image = np.full((96, 128, 3), 255, np.uint8)
    visualizer.add_datasample("", image, sample, out_file=str(tmp_path / "drawn.png"))
    pixels = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB"))
    assert pixels.shape == (384, 1024, 3)
    assert pixels[150, 20].tolist() == [0, 0, 255]
    assert pixels[-50, 20].tolist() == [255, 0, 0]


def test_names_are_where_mmseg_puts_them():
    visualizer = EnlargedSegVisualizer(name="places")
    for seed in range(5):
        mask = np.random.default_rng(seed).random((9, 12)) > 0.7
        place = super(EnlargedSegVisualizer, visualizer)._get_center_loc(mask)
        assert visualizer._get_center_loc(mask).tolist() == place.tolist()


@pytest.mark.parametrize("kind", few_of(KINDS, "maskrcnn_uniformer_xxs"))
def test_pictures_of_validation_and_testing_are_wide(repository, mini_root, tmp_path, kind):
    cfg = Config.fromfile(repository / f"configs/{kind}.py")
    apply_mini(cfg, mini_root)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        checkpoint = save_network(tmp_path, kind, cfg)
    folders = ("--work-dir", tmp_path / "work", "--show-dir", tmp_path / "shown")
    few = ("--cfg-options", "test_dataloader.dataset.indices=3")
    code, _, err = run_warm(
        "tools/test.py", f"configs/{kind}.py", checkpoint, "--mini", *folders, *few
    )
    assert code == 0, err
    pictures = [path for path in tmp_path.rglob("*.png") if path.name != "curves.png"]
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            beside = 1 if kind.startswith("imagenet") else 2
            assert picture.width >= 512 * beside, path
