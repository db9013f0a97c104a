"""Networks trained with token labelling load and score as published."""

import pytest
import torch
from helpers import golden_files, published_weights
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from published_models import CONFIGS, publish
from torch import nn

from hybrid_backbones.backbones import UniFormer
from hybrid_backbones.checkpoints import load_published, load_trained
from hybrid_backbones.heads import TokenLabelHead


def build(name, **backbone):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.model.backbone.update(backbone)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(cfg.model).eval()


@pytest.fixture(scope="module")
def weights():
    """A checkpoint of UniFormer-S in its published names, with the second classifier."""
    ((_, golden),) = golden_files("uniformer_small.json")
    generator = torch.Generator().manual_seed(0)
    aux = dict(weight=torch.randn(1000, 512, generator=generator), bias=torch.randn(1000))
    return published_weights(golden) | {f"aux_head.{name}": x for name, x in aux.items()}


def test_scores_are_those_of_the_mean_and_of_the_best_token(weights):
    model = build("imagenet_uniformer_s_tl")
    load_trained(model, dict(model=weights))
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model.backbone(images)[-1].flatten(2)
        mean = weights["head.weight"] @ tokens.mean(2).T + weights["head.bias"][:, None]
        each = torch.einsum("kc,bcn->bkn", weights["aux_head.weight"], tokens)
        best = (each + weights["aux_head.bias"][:, None]).max(2).values
        expected = mean.T + 0.5 * best
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arch", "heads"),
    [("s", "small_dim32", 16), ("s_plus", "small_plus", 16), ("b", "base_dim32", 16)],
)
def test_heads_have_32_channels(name, arch, heads):
    backbone = build(f"imagenet_uniformer_{name}_tl").backbone
    assert backbone.stages[3][-1].attn.num_heads == heads
    cfg = Config.fromfile(CONFIGS / f"imagenet_uniformer_{name}_tl.py")
    assert cfg.model.backbone.arch == arch


def test_a_plain_classifier_refuses_the_second_classifier(weights):
    with pytest.raises(ValueError, match=r"2 unexpected: head\.aux_fc\.bias, head\.aux_fc\.weight"):
        load_trained(build("imagenet_uniformer_s"), weights)


def test_a_classifier_with_two_heads_needs_both(weights):
    plain = {name: x for name, x in weights.items() if not name.startswith("aux_head.")}
    with pytest.raises(ValueError, match=r"2 missing: head\.aux_fc\.bias, head\.aux_fc\.weight"):
        load_trained(build("imagenet_uniformer_s_tl"), plain)


def test_a_backbone_drops_both_classifiers(weights):
    report = load_published(UniFormer("small_dim32"), weights)
    heads = {f"{head}.{kind}" for head in ("head", "aux_head") for kind in ("weight", "bias")}
    assert heads < set(report.dropped)


def test_scales_of_layers_are_in_all_stages_of_the_large_network():
    """The code for token labelling has them in stages 1 and 2 too, as ``(1, C, 1, 1)``."""
    small = dict(depths=(1, 1, 2, 1), embed_dims=(8, 16, 24, 32), head_dims=8)
    arch = dict(small, conv_stem=False, layer_scale="all stages")
    source, model = UniFormer(arch, out_norm="final"), UniFormer(arch, out_norm="final")
    for name, parameter in source.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "gamma" in name else 0.02)
    whole = nn.ModuleDict(dict(backbone=source))
    given = {name.removeprefix("backbone."): x for name, x in publish(whole).items()}
    scaled = [name for name in given if "gamma" in name]
    assert len(scaled) == 2 * sum(small["depths"])
    for name in scaled:
        if name.startswith(("blocks1", "blocks2")):
            given[name] = given[name][None, :, None, None]
    load_published(model, given)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_all_tokens_learn_in_training():
    torch.manual_seed(0)
    head = TokenLabelHead(num_classes=5, in_channels=8, loss=dict(type="CrossEntropyLoss"))
    samples = [DataSample().set_gt_label(i) for i in (1, 3)]
    maps = torch.randn(2, 8, 3, 4, requires_grad=True)
    losses = head.loss((maps,), samples)
    of_tokens = head.aux_fc(maps.flatten(2).transpose(1, 2))
    target = torch.tensor([1, 3])
    expected = nn.functional.cross_entropy(head.fc(maps.mean((2, 3))), target)
    expected = expected + 0.5 * nn.functional.cross_entropy(
        of_tokens.transpose(1, 2), target[:, None].expand(2, 12)
    )
    torch.testing.assert_close(losses["loss"], expected)


def test_the_accuracy_in_training_is_that_of_the_predictions():
    torch.manual_seed(0)
    head = TokenLabelHead(
        num_classes=5, in_channels=8, loss=dict(type="CrossEntropyLoss"), cal_acc=True, topk=(1,)
    )
    maps = torch.randn(64, 8, 3, 4) * 9
    labels = head((maps,)).argmax(1)
    # the other classifier would be right less often
    assert (head.fc(maps.mean((2, 3))).argmax(1) != labels).any()
    samples = [DataSample().set_gt_label(int(i)) for i in labels]
    losses = head.loss((maps,), samples)
    (accuracies,) = (value for name, value in losses.items() if "accuracy" in name)
    assert [float(x) for x in accuracies] == [100]
