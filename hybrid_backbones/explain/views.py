"""What there is to see of an image inside a network: panels and numbers, by what is looked at."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import ACmix, ACmixWindow, LocalRelationAggregator, MixingAttention
from ..ops.biformer import BiLevelRoutingAttention, BiLevelRoutingAttention2d
from ..ops.xvolution import MergedXVolution, XVolution
from .attention_views import show_attention
from .features import principal_colours, stage_features, stage_paths
from .gradients import class_activation, receptive_field
from .look import attention
from .panels import MAX_SINGLE, Box, Chart, Matrix, Panel, Picture, View
from .routing import region_columns, region_size
from .scene import Scene, short


def _region_box(scene: Scene, path: str, index: int, columns: int) -> Box:
    module = scene.model.get_submodule(path)
    assert isinstance(module, BiLevelRoutingAttention | BiLevelRoutingAttention2d)
    window, (down, right) = region_size(module, scene.sizes[path]), scene.stride(path)
    height, width = window[0] * down, window[1] * right
    return index % columns * width, index // columns * height, width, height


def _outside(routes: Tensor, size: tuple[int, int], window: tuple[int, int], columns: int) -> str:
    """Say how many of the routes of a region lead to padding, outside the map."""
    below = routes // columns * window[0] >= size[0]
    beside = routes % columns * window[1] >= size[1]
    number = int((below | beside).sum())
    return f" ({number} of them to padding)" if number else ""


def show_routes(scene: Scene) -> View | None:
    """The regions that bi-level routing chooses: of the position, and how often each is chosen."""
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    for path in scene.choose(BiLevelRoutingAttention, BiLevelRoutingAttention2d):
        module, size = scene.model.get_submodule(path), scene.sizes[path]
        assert isinstance(module, BiLevelRoutingAttention | BiLevelRoutingAttention2d)
        routes = scene.records[path]["routes"][0].cpu()
        window, (of_queries, of_keys) = region_size(module, size), region_columns(module, size)
        place = scene.subject.place(size)
        region = place[0] // window[0] * of_queries + place[1] // window[1]
        down, right = scene.stride(path)
        stride = window[0] * down, window[1] * right
        rows = max(-(-size[0] // window[0]), int(routes.max()) // of_keys + 1)
        ranks = torch.full((rows * of_keys,), torch.nan)
        ranks[routes[region]] = torch.arange(len(routes[region]), 0, -1).float()
        own = (_region_box(scene, path, region, of_queries), "red", "its region")
        # where padding follows, regions may lie outside the image
        outside = _outside(routes[region], size, window, of_keys)
        title = f"{short(path)}: top-{routes.shape[1]}, regions of {window[0]}×{window[1]}"
        settings: dict = dict(stride=stride, mark=scene.mark)
        panels.append(
            scene.heat(
                *(path, ranks.unflatten(0, (rows, of_keys)), f"{title}\nroutes{outside}"),
                f"rank ({routes.shape[1]}: first choice)",
                boxes=[own],
                **settings,
            )
        )
        counts = routes.flatten().bincount(minlength=len(ranks)).unflatten(0, (rows, of_keys))
        often = counts.float().masked_fill(counts == 0, torch.nan)
        panels.append(
            scene.heat(
                path, often, f"{title}\nchosen by all {len(routes)} regions", "times", **settings
            )
        )
        weights = attention(scene.model, scene.subject.arguments, path, place)[0].mean(0)
        tokens = weights.masked_fill(weights == 0, torch.nan)
        title = f"{short(path)}\nattention to tokens, mean of heads"
        panels.append(scene.heat(path, tokens, title, "weight", boxes=[own], mark=scene.mark))
        numbers |= {f"{path}.routes": routes.numpy(), f"{path}.chosen": counts.numpy()}
        numbers[f"{path}.weights"] = weights.cpu().numpy()
    return View("Bi-level routing", panels, numbers, best=range(3)) if panels else None


def show_rates(scene: Scene) -> View | None:
    """ACmix's rates over depth; MixFormer's gates."""
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    layers = [
        p for p in scene.sizes if isinstance(scene.model.get_submodule(p), ACmix | ACmixWindow)
    ]
    if layers:
        rates = torch.stack([scene.records[path]["rates"] for path in layers]).float().cpu().numpy()
        series = {"α, attention": rates[:, 0], "β, convolution": rates[:, 1]}
        panels.append(Chart("ACmix: rates of both branches", series, [*map(short, layers)], "rate"))
        numbers = dict(layers=np.array(layers), rates=rates)
    for path in scene.choose(MixingAttention):
        spatial = scene.records[path]["spatial_gates"][0, 0]
        channel = scene.records[path]["channel_gates"].flatten().float().cpu().numpy()
        title = f"{short(path)}\nspatial gate of the convolution"
        panels.append(scene.heat(path, spatial, title, "gate", tight=True, mark=scene.mark))
        places = [str(i) for i in range(len(channel))]
        title = f"{short(path)}\nchannel gates of the attention, sorted"
        panels.append(Chart(title, dict(gates=np.sort(channel)), places, "gate"))
        numbers |= {f"{path}.spatial": spatial.cpu().numpy(), f"{path}.channel": channel}
    return View("Rates and gates", panels, numbers, best=range(2)) if panels else None


def _fade(scene: Scene, hidden: Tensor) -> np.ndarray:
    """Return the image, nearly white where a map ``(h, w)`` of the network is True."""
    whole = scene.inputs.shape[2:]
    mask = F.interpolate(hidden[None, None].float(), whole, mode="nearest")[0, 0].cpu().numpy()
    height, width = scene.subject.pixels.shape[:2]
    opacity = 0.85 * mask[:height, :width, None]
    return scene.subject.pixels * (1 - opacity) + opacity


def show_tokens(scene: Scene) -> View | None:
    """Tokens that UniFormerLight keeps, block by block; SwiftFormer's weights of tokens."""
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    for path, tensors in scene.records.items():
        if "scores" not in tensors or scene.layer not in (None, path):
            continue
        scores, kept = tensors["scores"][0], tensors.get("kept")
        numbers[f"{path}.scores"] = scores.cpu().numpy()
        if kept is None:
            title = f"{short(path)}\nweight of each token in the global query"
            panels.append(scene.heat(path, scores, title, "weight", signed=True))
            continue
        numbers[f"{path}.kept"] = kept[0].cpu().numpy()
        title = (
            f"{short(path)}: {int(kept[0].sum())} of {kept[0].numel()} tokens kept\nwhite: pruned"
        )
        faded = _fade(scene, ~kept[0])
        panels.append(Picture(title, faded, (faded.shape[0], faded.shape[1])))
    middle = [len(panels) // 3, 2 * len(panels) // 3, len(panels) - 1]
    return View("Tokens", panels, numbers, best=sorted({*middle})) if panels else None


def show_kernels(scene: Scene) -> View | None:
    """X-volution's dynamic kernel at the position; the kernels of UniFormer's local aggregator."""
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    for path in scene.choose(XVolution, MergedXVolution):
        if path not in scene.records:
            continue
        y, x = scene.subject.place(scene.sizes[path])
        kernel = scene.records[path]["kernel"][0]  # (h, K², H, W)
        side = int(kernel.shape[1] ** 0.5)
        strength = kernel.square().sum((0, 1)).sqrt()
        title = f"{short(path)}\nnorm of the dynamic kernel"
        panels.append(scene.heat(path, strength, title, "norm", mark=scene.mark))
        for head, values in enumerate(kernel[:MAX_SINGLE, :, y, x].unflatten(1, (side, side))):
            title = f"{short(path)}\ndynamic kernel at {y, x}, head {head}"
            panels.append(Matrix(title, values.float().cpu().numpy(), "weight"))
        numbers[path] = kernel.cpu().numpy()
    for path in scene.choose(LocalRelationAggregator):
        kernel = scene.records[path]["kernel"].float().cpu()  # (C, K, K)
        strongest = kernel.abs().sum((1, 2)).argsort(descending=True)[:3].tolist()
        title = f"{short(path)}\nmean size over {len(kernel)} channels"
        panels.append(Matrix(title, kernel.abs().mean(0).numpy(), "mean |weight|", signed=False))
        panels += [
            Matrix(f"{short(path)}\nchannel {i}", kernel[i].numpy(), "weight") for i in strongest
        ]
        numbers[path] = kernel.numpy()
    return View("Kernels", panels, numbers, best=range(2)) if panels else None


def show_cam(scene: Scene) -> View | None:
    """Grad-CAM of what the network finds, in its last two stages."""
    if scene.subject.score is None:
        return None
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    paths = stage_paths(scene.model)
    for path in paths[-2:] if scene.layer is None else [scene.layer]:
        cam = class_activation(scene.model, path, scene.subject.score)[0]
        scene.sizes[path] = cam.shape[0], cam.shape[1]
        boxes = [] if scene.subject.box is None else [(scene.subject.box, "lime", "detection")]
        title = f"{short(path)}\nGrad-CAM of {scene.subject.found}"
        panels.append(scene.heat(path, cam, title, "evidence", boxes=boxes))
        numbers[path] = cam.cpu().numpy()
    return View("Grad-CAM", panels, numbers) if panels else None


def show_field(scene: Scene) -> View | None:
    """Effective receptive field of the position in each stage."""
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    features = stage_features(scene.model, scene.subject.arguments)
    for path in features if scene.layer is None else [scene.layer]:
        size = scene.sizes.get(path) or tuple(features[path].shape[2:])
        place = scene.subject.place((size[0], size[1]))
        field = receptive_field(scene.model, scene.subject.arguments, path, place)[0]
        # square roots show what is weak; pixels that do not count stay bare
        shown = (field / field.max().clamp_min(torch.finfo(field.dtype).tiny)).sqrt()
        shown = shown.masked_fill(field == 0, torch.nan)
        title = f"{short(path)}\neffective receptive field"
        label = "√(gradient / largest)"
        panels.append(scene.heat(path, shown, title, label, stride=(1, 1), mark=scene.mark))
        numbers[path] = field.cpu().numpy()
    return View("Effective receptive field", panels, numbers) if panels else None


def show_features(scene: Scene) -> View | None:
    """Principal components of each stage's features as colours."""
    panels: list[Panel] = []
    numbers: dict[str, np.ndarray] = {}
    whole = scene.inputs.shape[2], scene.inputs.shape[3]
    for path, features in stage_features(scene.model, scene.subject.arguments).items():
        if scene.layer not in (None, path):
            continue
        colours = principal_colours(features)[0].permute(1, 2, 0).float().cpu().numpy()
        title = (
            f"{short(path)}\n{features.shape[1]} channels, {colours.shape[0]}×{colours.shape[1]}"
        )
        size = scene.subject.pixels.shape
        panels.append(Picture(title, colours, (size[0], size[1]), whole))
        numbers[path] = features[0].cpu().numpy()
    title = "Stage features: three principal components as red, green and blue"
    return View(title, panels, numbers, best=range(4)) if panels else None


# by the name of the flag --what; None where the network has nothing of the kind
VIEWS: Mapping[str, Callable[[Scene], View | None]] = {
    "routes": show_routes,
    "attention": show_attention,
    "rates": show_rates,
    "tokens": show_tokens,
    "kernel": show_kernels,
    "cam": show_cam,
    "erf": show_field,
    "features": show_features,
}
