"""A small network of each kind, with its full config, and what the tests of demos draw of it."""

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.datasets import ImageNet
from mmpretrain.structures import DataSample
from mmseg.datasets import ADE20KDataset
from mmseg.structures import SegDataSample

from hybrid_backbones.inference.demo import build_visualizer

# a small network of each kind, with its full config: its data set and the names of that
KINDS = {
    "imagenet_swiftformer_xs": ImageNet,
    "fpn_uniformer_xxs": ADE20KDataset,
    "maskrcnn_uniformer_xxs": CocoDataset,
}
# a smaller size and fewer masks, to save time; else as users have it
FASTER = {
    "test_dataloader.dataset.pipeline.1.scale": (333, 200),
    "model.test_cfg.rcnn.max_per_img": 10,
}
# wrappers of test sets, as users have them
WRAPPERS = {
    "plain": lambda dataset: dataset,
    "concatenated": lambda one: dict(type="ConcatDataset", datasets=[one, dict(one, indices=1)]),
    "repeated": lambda one: dict(type="RepeatDataset", times=2, dataset=one),
    "concatenated repetitions": lambda one: WRAPPERS["concatenated"](WRAPPERS["repeated"](one)),
}
every_form = pytest.mark.parametrize(
    ("wrapper", "form"),
    [
        *((wrapper, "name") for wrapper in WRAPPERS),
        *(("plain", form) for form in ("class", "path")),
        ("concatenated repetitions", "class"),
    ],
)
every_kind = pytest.mark.parametrize("kind", KINDS)


def read(repository, kind):
    cfg = Config.fromfile(repository / f"configs/{kind}.py")
    cfg.model.backbone.init_cfg = None
    if kind.startswith("maskrcnn"):
        cfg.merge_from_dict(FASTER)
    return cfg


def in_form(cfg, wrapper, form):
    """Write the test set of a config otherwise: wrapped, and its types as classes or paths."""
    dataset = cfg.test_dataloader.dataset
    for part, registry in ((dataset, DATASETS), *((step, TRANSFORMS) for step in dataset.pipeline)):
        with registry.switch_scope_and_registry(cfg.default_scope) as own:
            kind = own.get(part.type)
        names = dict(name=part.type, path=f"{kind.__module__}.{kind.__name__}")
        part.type = kind if form == "class" else names[form]
    cfg.test_dataloader.dataset = WRAPPERS[wrapper](dataset)
    return cfg


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def visualizer_of(cfg, tmp_path, **meta):
    """Return the visualizer for a checkpoint of these meta data."""
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict={"a": torch.zeros(1)}, **meta), tmp_path / "some.pth")
    return build_visualizer(cfg, tmp_path / "some.pth")


def sample_of(kind, width, height, label=0):
    """Return a prediction of a label: one box and mask, or everywhere."""
    if kind.startswith("imagenet"):
        return DataSample().set_pred_label(label).set_pred_score(torch.ones(label + 1))
    if kind.startswith("fpn"):
        labels = torch.full((1, height, width), label)
        return SegDataSample(pred_sem_seg=PixelData(data=labels))
    box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = True
    objects = InstanceData(
        bboxes=box, masks=mask, scores=torch.tensor([0.9]), labels=torch.tensor([label])
    )
    return DetDataSample(pred_instances=objects)


def save_network(folder, kind, cfg):
    """Save a random network of a config in a folder, unless it is there, and return its path."""
    path = folder / f"{kind}.pth"
    if not path.exists():
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        for name, weight in model.named_parameters():
            # so that labels and scores differ, although features hardly do
            if name.endswith(("fc.weight", "fc_cls.weight", "conv_seg.weight")):
                torch.nn.init.normal_(weight, std=100)
        torch.save(dict(state_dict=model.state_dict()), path)
    return path
