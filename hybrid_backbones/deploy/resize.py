"""Resizing of images inside ONNX files, as a config's test pipeline does it beside them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from onnx import GraphProto, ModelProto, TensorProto, helper
from torch import Tensor, nn

from ..settings import both_sides, tested_dataset, type_name
from . import resize_steps
from .compare import BOXES, INPUT

# beginnings of the types of steps that leave the pixels as they are
OTHER_STEPS = ("LoadImage", "LoadAnnotations", "RenderSketch", "Pack")
# output of a segmentor whose logits are enlarged to the image, and what it becomes
LOGITS, LABELS = "label_logits", "labels"


class Resizing:
    """The steps of a config's test pipeline that resize and crop images.

    Args:
        cfg: config with a `test_dataloader`.

    Attributes:
        steps: settings of the steps.
        size: height and width of all resized images, or None if they depend on the image.

    Raises:
        ValueError: if no step resizes, or one has no form in ONNX.
    """

    def __init__(self, cfg: Config):
        steps = [dict(x, type=type_name(x["type"])) for x in tested_dataset(cfg).pipeline]
        steps = [step for step in steps if not step["type"].startswith(OTHER_STEPS)]
        self.steps = [step for step in steps if step.get("scale_factor") != 1]
        if not self.steps:
            raise ValueError(
                "--resize: the test pipeline of the config does not resize images; leave it out"
            )
        self.models = [resize_steps.build(step) for step in self.steps]
        self.size = _final_size(self.steps)
        init_default_scope(cfg.default_scope)
        self._host = Compose(self.steps)

    def resize(self, images: Tensor) -> Tensor:
        """Resize RGB images (B, 3, H, W) of 8 bits as the framework does."""
        resized = []
        for image in images:
            pixels = image.flip(0).permute(1, 2, 0).numpy()
            item = dict(img=pixels, img_shape=pixels.shape[:2], ori_shape=pixels.shape[:2])
            # OpenCV gives arrays with reversed strides back, which PyTorch does not take
            resized.append(
                torch.from_numpy(self._host(item)["img"].copy()).permute(2, 0, 1).flip(0)
            )
        return torch.stack(resized)

    def names(self, names: Sequence[str]) -> list[str]:
        """Return the names of a file's outputs for those of a network."""
        return [LABELS if name == LOGITS else name for name in names]

    def around(self, model: nn.Module, names: Sequence[str]) -> nn.Module:
        """Return a network, with these outputs, on images that the framework resizes."""
        return Resized(model, self, names)

    def add(self, model: ModelProto) -> ModelProto:
        """Put the steps before a network, and give its boxes or labels in pixels of the image."""
        graph = model.graph
        resized = f"step{len(self.models) - 1}_resized"
        for node in graph.node:
            _rename(node.input, {INPUT: resized})
        front = GraphProto()
        for i, step in enumerate(self.models):
            source = f"step{i - 1}_resized" if i else INPUT
            _append(front, step.graph, f"step{i}_", {"images": source})
        front.node.extend(graph.node)
        del graph.node[:]
        graph.node.extend(front.node)
        graph.initializer.extend(front.initializer)
        images = next(one for one in graph.input if one.name == INPUT)
        for i, name in ((2, "height"), (3, "width")):
            images.type.tensor_type.shape.dim[i].dim_param = name
        for output in list(graph.output):
            if output.name.endswith(BOXES):
                after = resize_steps.boxes_in.to_model_proto().graph
                _finish(graph, output.name, after, dict(images=INPUT, resized=resized))
            elif output.name == LOGITS:
                after = resize_steps.labels_in.to_model_proto().graph
                _finish(graph, LOGITS, after, dict(images=INPUT))
                sides = ["batch", "height", "width"]
                output.CopyFrom(helper.make_tensor_value_info(LABELS, TensorProto.INT64, sides))
        return model


class Resized(nn.Module):
    """A network on images that the framework resizes, with outputs in pixels of the images.

    Args:
        model: network from resized images and further inputs to a tuple.
        resizing: steps of the framework.
        names: names of the network's outputs.
    """

    def __init__(self, model: nn.Module, resizing: Resizing, names: Sequence[str]):
        super().__init__()
        self.model, self.resizing, self.names = model, resizing, names

    def forward(self, images: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        resized = self.resizing.resize(images)
        outputs = dict(zip(self.names, self.model(resized, *others), strict=True))
        before, after = (torch.tensor(x.shape[:1:-1] * 2).float() for x in (images, resized))
        for name in self.names:
            if name.endswith(BOXES):
                outputs[name] = outputs[name] / (after / before)
        if LOGITS in outputs:
            logits = F.interpolate(outputs[LOGITS], images.shape[2:], mode="bilinear")
            outputs[LOGITS] = logits.argmax(1)
        return tuple(outputs.values())


def _final_size(steps: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Return the height and width after the last step, or None if they depend on the image."""
    last = steps[-1]
    if last["type"] == "Resize" and not last.get("keep_ratio"):
        width, height = both_sides(last["scale"])
        return height, width
    before = steps[-2] if len(steps) > 1 else dict(type=None)
    if last["type"] == "CenterCrop" and before["type"] == "ResizeEdge":
        sides = last["crop_size"]
        sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
        return sides if max(sides) <= before["scale"] else None
    return None


def _rename(names: Any, new: dict[str, str]) -> None:
    for i, name in enumerate(names):
        names[i] = new.get(name, name)


def _append(graph: GraphProto, part: GraphProto, prefix: str, known: dict[str, str]) -> None:
    """Append the nodes of another graph; its names get a prefix, or those of `known`."""
    names = {name: prefix + name for node in part.node for name in node.output}
    names |= {one.name: prefix + one.name for one in part.initializer} | known
    for node in part.node:
        added = graph.node.add()
        added.CopyFrom(node)
        added.name = prefix + node.name
        _rename(added.input, names)
        _rename(added.output, names)
    for initializer in part.initializer:
        added = graph.initializer.add()
        added.CopyFrom(initializer)
        added.name = names[initializer.name]


def _finish(graph: GraphProto, name: str, after: GraphProto, known: dict[str, str]) -> None:
    """Put a graph behind an output of another, whose first input and only output it becomes."""
    inner = f"network_{name}"
    for node in graph.node:
        _rename(node.input, {name: inner})
        _rename(node.output, {name: inner})
    last = LABELS if name == LOGITS else name
    known = known | {after.input[0].name: inner, after.output[0].name: last}
    _append(graph, after, "finish_", known)
