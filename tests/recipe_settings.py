"""How the settings of `published_recipes.tsv` are read from a config."""

import re

import torch
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, DefaultScope
from torchvision.ops import StochasticDepth

from hybrid_backbones.benchmark.zoo import read_published
from hybrid_backbones.mini.preset import dicts
from hybrid_backbones.ops.acmix import ShiftConvolution
from hybrid_backbones.training.mixed_precision import amp_wrapper


class Recipe:
    """What a config and its docstrings say, and the model on the meta device, built when needed."""

    def __init__(self, path, docstring):
        self.cfg = Config.fromfile(path)
        self.docstring = docstring
        self.published = read_published(path)
        self.optimizer = self.cfg.optim_wrapper.optimizer
        self.warmup, self.decay = ({}, *self.cfg.param_scheduler)[-2:]
        self.transforms = list(dicts(self.cfg.train_dataloader.dataset.pipeline))
        self._model = None

    @property
    def model(self):
        if self._model is None:
            cfg = self.cfg.model
            if self.cfg.default_scope == "mmpretrain":
                cfg = dict(cfg, data_preprocessor=self.cfg.data_preprocessor)
            scope = DefaultScope.overwrite_default_scope(self.cfg.default_scope)
            with scope, torch.device("meta"):
                self._model = MODELS.build(cfg)
        return self._model

    def transform(self, *types):
        """Find the first transform of the training that has one of these types."""
        return next((t for t in self.transforms if t.get("type") in types), {})

    def mixing(self, kind):
        """Read the alpha of mixup or cutmix; each batch gets one of them."""
        augments = (self.cfg.model.get("train_cfg") or {}).get("augments", [])
        return next((augment.alpha for augment in augments if augment.type == kind), None)


def rate_decay(recipe):
    by_epoch = recipe.decay.get("by_epoch", True) and not recipe.decay.get("convert_to_iter_based")
    start = "after the warm-up" if recipe.decay.begin == recipe.warmup.end else "from the start"
    return f"{start}, by {'epoch' if by_epoch else 'iteration'}"


def last_rate(recipe):
    ratio = recipe.decay.get("eta_min_ratio")
    return recipe.decay.get("eta_min", 0) if ratio is None else ratio * recipe.optimizer.lr


def true_label(recipe):
    """Return the smoothed label of the right class; the others share what is taken from it."""
    loss = recipe.cfg.model.head.loss
    assert (loss.type, loss.mode) == ("LabelSmoothLoss", "original")
    return 1 - loss.label_smooth_val + loss.label_smooth_val / recipe.cfg.model.head.num_classes


def augmentation(recipe):
    found = recipe.transform("RandAugment", "AutoAugment", "ColorJitter")
    if not found:
        return None
    if found.type == "AutoAugment":
        return f"AutoAugment {found.policies}"
    if found.type == "ColorJitter":
        (amount,) = {found.brightness, found.contrast, found.saturation}
        return f"ColorJitter {amount}"
    increasing = f"inc{int(found.policies == 'timm_increasing')}"
    assert (found.num_policies, found.total_level) == (2, 10)
    return f"RandAugment m{found.magnitude_level}-mstd{found.magnitude_std}-{increasing}"


def image_size(recipe):
    """Return a side, a scale, or the first and last short side, their step and the longest side."""
    if recipe.cfg.default_scope == "mmpretrain":
        return recipe.transform("RandomResizedCrop").scale
    fixed = recipe.transform("Resize", "RandomResize")
    if fixed:
        return list(fixed.scale)
    (plain,), (*_, last) = recipe.transform("RandomChoice").transforms
    assert plain == last
    sides, (longest,) = [s for s, _ in plain.scales], {long for _, long in plain.scales}
    assert sides == list(range(sides[0], sides[-1] + 1, sides[1] - sides[0]))
    return [sides[0], sides[-1], sides[1] - sides[0], longest]


def size_at_test(recipe):
    types = {t.type: t for t in recipe.cfg.test_dataloader.dataset.pipeline}
    return [types["ResizeEdge"].scale, types["CenterCrop"].crop_size]


def resizing(recipe):
    pipelines = (recipe.cfg.train_dataloader, recipe.cfg.test_dataloader)
    resizes = [
        (t.get("backend", "cv2"), t.get("interpolation", "bilinear"))
        for loader in pipelines
        for t in loader.dataset.pipeline
        if t.type in ("RandomResizedCrop", "ResizeEdge")
    ]
    ((backend, interpolation),) = set(resizes)
    return f"{backend} {interpolation}"


def multiple_at_test(recipe):
    pipeline = recipe.cfg.test_dataloader.dataset.pipeline
    return next((t.size_divisor for t in pipeline if t.type == "ResizeToMultiple"), None)


def average(recipe):
    """Return the decay of an average of the weights that is measured beside the weights."""
    hook = recipe.cfg.default_hooks.get("ema")
    if hook is None:
        return None
    assert (hook.type, hook.evaluate_on_origin) == ("EMAHook", True)
    return 1 - hook.momentum


def stochastic_depth(recipe):
    modules = recipe.model.backbone.modules()
    return max((m.p for m in modules if isinstance(m, StochasticDepth)), default=0.0)


def initialisation(recipe):
    """Name what does not start as PyTorch's or Kaiming's defaults do."""
    with DefaultScope.overwrite_default_scope(recipe.cfg.default_scope):
        backbone = MODELS.build(recipe.cfg.model.backbone)
    found = []
    if any((m.weight == 0).any() for m in backbone.modules() if isinstance(m, ShiftConvolution)):
        found.append("shifts")
    zeros = [name for name, p in backbone.named_parameters() if not p.any()]
    if any(name.endswith("bn3.weight") for name in zeros):
        found.append("residual branches at zero")
    if any(name.endswith("cls_token") for name in zeros):
        found.append("class token at zero")
    return found


def head_initialisation(recipe):
    name = "head" if recipe.cfg.default_scope == "mmpretrain" else "decode_head"
    return "the host's" if getattr(recipe.model, name).init_cfg else "PyTorch"


def result(pattern):
    """Return a function that reads a figure from a docstring's published results."""

    def read(recipe):
        found = re.search(pattern, recipe.published)
        return float(found[1]) if found else None

    return read


def spared_of_decay(recipe, words):
    """Return the words if the parameters that they name are those without weight decay."""
    exceptions = recipe.cfg.optim_wrapper.get("paramwise_cfg")
    if not (words or exceptions):
        return words
    own = DefaultOptimWrapperConstructor(dict(optimizer=recipe.optimizer), exceptions)
    groups = []
    own.add_params(groups, recipe.model)
    names = {id(p): name for name, p in recipe.model.named_parameters()}
    spared = {names[id(g["params"][0])] for g in groups if g.get("weight_decay") == 0}

    def is_named(name, parameter, word):
        inside, _, shape = word.rpartition(" ")
        if shape == "1-D":
            return parameter.ndim == 1 and name.startswith(inside)
        return word in name

    named = {n for n, p in recipe.model.named_parameters() if any(is_named(n, p, w) for w in words)}
    return words if spared == named else sorted(spared ^ named)


def backbone_setting(name, default=None):
    return lambda recipe: recipe.cfg.model.backbone.get(name, default)


def from_sequence(value):
    return list(value) if isinstance(value, list | tuple) else value


SETTINGS = {
    "EMA": average,
    "attention": backbone_setting("attention", "global"),
    "augmentation": augmentation,
    "batch": lambda r: r.cfg.auto_scale_lr.base_batch_size,
    "betas": lambda r: r.optimizer.betas,
    "box AP": result(r"box AP ([\d.]+)"),
    "categories": lambda r: 56 - len(r.cfg.train_dataloader.dataset.exclude),
    "clipping": lambda r: (r.cfg.optim_wrapper.get("clip_grad") or {}).get("max_norm"),
    "crop": lambda r: r.transform("RandomCrop").crop_size,
    "cutmix": lambda r: r.mixing("CutMix"),
    "decay": lambda r: dict(CosineAnnealingLR="cosine", PolyLR="poly")[r.decay.type],
    "distillation": lambda r: r.cfg.model.get("teacher"),
    "dominant class": lambda r: r.transform("RandomCrop").cat_max_ratio,
    "epochs": lambda r: r.cfg.train_cfg.max_epochs,
    "erasing": lambda r: r.transform("RandomErasing").get("erase_prob"),
    "first rate": lambda r: r.warmup.start_factor * r.optimizer.lr,
    "flip": lambda r: r.transform("RandomFlip").prob,
    "head initialisation": head_initialisation,
    "image size": image_size,
    "initialisation": initialisation,
    "iterations": lambda r: r.cfg.train_cfg.max_iters,
    "last rate": last_rate,
    "learning rate": lambda r: r.optimizer.lr,
    "loss scale": lambda r: amp_wrapper("cuda", "float16")["loss_scale"],
    "mIoU": result(r"mIoU ([\d.]+)"),
    "mask AP": result(r"mask AP ([\d.]+)"),
    "mixed precision": lambda r: "as published: --amp" in r.docstring,
    "mixup": lambda r: r.mixing("Mixup"),
    "momentum": lambda r: r.optimizer.momentum,
    "multi-scale mIoU": result(r", ([\d.]+) at many scales"),
    "norm eval": backbone_setting("norm_eval", False),
    "optimizer": lambda r: r.optimizer.type,
    "rate decay": rate_decay,
    "power": lambda r: r.decay.power,
    "ratio range": lambda r: r.transform("RandomResize").ratio_range,
    "recomputed blocks": backbone_setting("with_cp", False),
    "repeated augmentation": lambda r: "RepeatAug" in r.cfg.train_dataloader.sampler.type,
    "resizing": resizing,
    "scores": lambda r: "released" if r.cfg.model.bbox_head.get("released") else "paper",
    "steps": lambda r: r.decay.milestones,
    "stochastic depth": stochastic_depth,
    "synchronised statistics": lambda r: "sync_bn" in r.cfg,
    "test multiple": multiple_at_test,
    "test size": size_at_test,
    "top-1": result(r"top-1 ([\d.]+)"),
    "true label": true_label,
    "validation interval": lambda r: r.cfg.train_cfg.val_interval,
    "warm-up": lambda r: r.warmup.end,
    "weight decay": lambda r: r.optimizer.weight_decay,
    "window size": backbone_setting("window_size", 14),
    "windows": backbone_setting("num_windows"),
}


def read_setting(recipe, setting, published):
    """Read a setting of a config, as the table writes it."""
    if setting == "no decay":
        return spared_of_decay(recipe, published)
    return from_sequence(SETTINGS[setting](recipe))
