"""Shared by the tests of exported detectors: small models whose scores differ, and the host's."""

import json

import numpy as np
import onnxruntime
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from hybrid_backbones.deploy.detectors import Detector
from hybrid_backbones.deploy.whole import Normalisation
from hybrid_backbones.mini.preset import apply_mini, dicts
from hybrid_backbones.mini.shapes import draw_scene

CONFIGS = dict(
    retinanet="retinanet_swiftformer_l1",
    mask="maskrcnn_swiftformer_l1",
    cascade="cascade_maskrcnn_uniformer_s_3x",
)
# of the network and of everything behind it
CHANNELS, WIDTH = (16, 16, 32, 32), 32
NARROW = dict(
    out_channels=WIDTH, in_channels=WIDTH, feat_channels=WIDTH, conv_out_channels=WIDTH,
    fc_out_channels=WIDTH, stacked_convs=1, num_convs=1, num_shared_convs=1, num_groups=8,
)  # fmt: skip
# standard deviations of the outputs of last layers, so small that no sigmoid is 1; those of others
# are 1
SPREAD = dict(retina_cls=0.7, rpn_cls=1, fc_cls=1, _reg=0.3, conv_logits=0.5)


def small_config(repository, mini_root, kind):
    cfg = Config.fromfile(repository / f"configs/{CONFIGS[kind]}.py")
    apply_mini(cfg, mini_root)
    backbone = cfg.model.backbone
    arch = dict(depths=(1, 1, 1, 1), embed_dims=CHANNELS)
    outs = backbone.get("out_indices", (0, 1, 2, 3))
    cfg.model.backbone = dict(type="SwiftFormer", arch=arch, out_indices=outs)
    for settings in dicts(cfg.model):
        if settings is not cfg.model.backbone:
            settings.update({k: v for k, v in NARROW.items() if k in settings})
    cfg.model.neck.in_channels = [CHANNELS[i] for i in outs]
    return cfg


def build(cfg):
    """Build a detector whose random scores and boxes depend on the image and differ."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    spread = {
        layer: next((gain for end, gain in SPREAD.items() if name.endswith(end)), 1)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
    }

    def normalise(layer, inputs, out):
        # at its first call on enough positions
        if layer not in spread or out[:, 0].numel() < 50:
            return out
        gain = spread.pop(layer)
        flat = out.transpose(0, 1).flatten(1)
        factor = gain / flat.std(1).clamp(min=1e-6)
        layer.bias.data = (layer.bias - flat.mean(1)) * factor
        layer.weight.data *= factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        return layer.forward(*inputs)

    hooks = [layer.register_forward_hook(normalise) for layer in spread]
    predict_by_host(model, draw(149, 171, seed=9))
    for hook in hooks:
        hook.remove()
    return model


def wrap(cfg, model, kind=Detector):
    return kind(model, Normalisation(cfg.model.data_preprocessor)).eval()


def draw(height, width, seed=0):
    """Draw an image ``(1, 3, H, W)``."""
    shapes = (height // 6, height // 2)
    pixels, *_ = draw_scene(
        np.random.default_rng(seed), height, width, [0, 1, 2, 3, 4], shapes=shapes
    )
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def predict_by_host(model, images):
    """Return the host's own prediction, of a pipeline that loads BGR."""
    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    data = dict(inputs=[images[0].flip(0)], data_samples=[DetDataSample(metainfo=meta)])
    with torch.no_grad():
        return model.test_step(data)[0].pred_instances


def load(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    notes = {
        key.partition(".")[2]: json.loads(value)
        for key, value in session.get_modelmeta().custom_metadata_map.items()
    }
    return lambda images: [
        torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})
    ], notes


def assert_same(outputs, expected, size):
    """Compare boxes, labels, scores and pasted masks with the host's, in the host's order.

    The scores of the cases differ by more than rounding, so that the order is theirs, too.
    """
    boxes, labels, scores, *masks = outputs
    assert labels.tolist() == expected.labels.tolist()
    # relative to the size of the image, in pixels
    torch.testing.assert_close(boxes, expected.bboxes, rtol=0, atol=1e-4 * max(size))
    torch.testing.assert_close(scores, expected.scores, rtol=1e-4, atol=0)
    if masks:
        pasted = _do_paste_mask(masks[0][:, None], boxes, *size, skip_empty=False)[0] >= 0.5
        # pixels at the threshold may fall to either side
        assert (pasted != expected.masks).sum() <= 1e-4 * pasted.numel()
