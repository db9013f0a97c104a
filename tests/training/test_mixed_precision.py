"""Laws of mixed precision: each backbone trains, and half precision stays close to single."""

import copy

import numpy as np
import pytest
import torch
from backbone_cases import build, each_kind_slowly
from mmengine.optim import build_optim_wrapper
from PIL import Image
from tool_runs import run_warm, train
from torch import nn
from torch.nn.functional import cross_entropy

from hybrid_backbones.checkpoints import read_checkpoint
from hybrid_backbones.mini.shapes import CLASSES
from hybrid_backbones.ops import biformer
from hybrid_backbones.training.mixed_precision import amp_wrapper, train_in_mixed_precision

DTYPES = ("bfloat16", "float16")


class Classifier(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.out_channels[-1], len(CLASSES))

    def forward(self, images, labels):
        logits = self.head(self.backbone(images)[-1].mean((2, 3)))
        return cross_entropy(logits.float(), labels)


def make_wrapper(model, dtype, lr=1e-3, **kwargs):
    settings = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=lr), **kwargs)
    settings |= {} if dtype == "float32" else amp_wrapper("cpu", dtype)
    return build_optim_wrapper(model, settings)


def scale_of(wrapper):
    return wrapper.loss_scaler.get_scale() if hasattr(wrapper, "loss_scaler") else 1.0


def first_regions(query, key, topk, valid_mask=None):
    return torch.arange(topk).expand(*query.shape[:2], topk)


@pytest.fixture(scope="module")
def batch(mini_root):
    """One picture of each class of the mini set, and their labels."""
    root = mini_root / "imagenet/val"
    paths = [next(root.glob(f"{name}/*.png")) for name in CLASSES]
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    return pictures.permute(0, 3, 1, 2) / 64 - 2, torch.arange(len(CLASSES))


def learn(model, dtype, batch, steps=3):
    """Train on one batch; return the losses of the steps and the gradient of the first.

    In float16, a gradient that overflows under the loss scale halves it, and the step is skipped.
    """
    wrapper, losses, gradients = make_wrapper(model, dtype), [], []
    while len(losses) < steps:
        with wrapper.optim_context(model):
            loss = model(*batch)
        wrapper.backward(loss)
        # norms of outputs that the classifier does not read have none
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        gradient = torch.cat([grad.flatten() for grad in grads]) / scale_of(wrapper)
        if gradient.isfinite().all():
            losses.append(loss.item())
            gradients.append(gradient)
        else:
            assert scale_of(wrapper) > 2**10, f"{dtype} overflows"
        wrapper.step()
        wrapper.zero_grad()
    return losses, gradients[0]


@each_kind_slowly
def test_each_backbone_trains_in_half_precision_as_in_single(monkeypatch, network, settings, batch):
    # regions may score so nearly equal that rounding selects others, so each attends to the first
    monkeypatch.setattr(biformer, "route_regions", first_regions)
    model = Classifier(build(network, settings))
    expected, gradient = learn(copy.deepcopy(model), "float32", batch)
    for dtype in DTYPES:
        losses, half = learn(copy.deepcopy(model), dtype, batch)
        eps = torch.finfo(getattr(torch, dtype)).eps
        assert losses[0] == pytest.approx(expected[0], abs=eps)
        # Adam's first steps have the same length whatever the gradient, so noise counts in full
        assert losses == pytest.approx(expected, abs=8 * eps)
        # rounding moves a share of about eps of the activations across the kink of a ReLU; each
        # changes its gradient by the whole of it, which makes the root of eps in the norm
        assert (half - gradient).norm() < 3 * eps**0.5 * gradient.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.upstream
def test_a_wrapper_computes_in_its_dtype_and_keeps_float32_weights(dtype):
    model = nn.Linear(4, 4)
    wrapper = make_wrapper(model, dtype)
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 4))
    assert out.dtype == getattr(torch, dtype)
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32


@pytest.mark.upstream
def test_an_overflow_in_float16_skips_the_step_and_halves_the_scale():
    model = nn.Linear(4, 1)
    wrapper, before = make_wrapper(model, "float16"), model.weight.clone()
    scale = scale_of(wrapper)
    with wrapper.optim_context(model):
        # its gradient is the scale, 2**16, which is infinite in float16
        loss = model(torch.ones(1, 4)).sum()
    wrapper.update_params(loss)
    assert torch.equal(model.weight, before)
    assert scale_of(wrapper) == scale / 2
    with wrapper.optim_context(model):
        loss = model(torch.ones(1, 4)).sum()
    wrapper.update_params(loss)
    assert not torch.equal(model.weight, before)
    assert scale_of(wrapper) == scale / 2


@pytest.mark.upstream
def test_gradients_are_clipped_without_the_scale():
    model = nn.Linear(4, 1, bias=False)
    settings = dict(optimizer=dict(type="SGD", lr=1.0), clip_grad=dict(max_norm=1.0))
    wrapper = build_optim_wrapper(model, settings | amp_wrapper("cpu", "float16"))
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        loss = model(torch.full((1, 4), 1.8)).float().sum() / 2
    wrapper.update_params(loss)
    # the gradient is 0.9 four times, of length 1.8
    torch.testing.assert_close(model.weight, before - 0.5, rtol=0, atol=1e-3)


@pytest.mark.upstream
def test_the_scale_is_resumed():
    model = nn.Linear(4, 1)
    wrapper, other = make_wrapper(model, "float16"), make_wrapper(model, "float16")
    wrapper.update_params(model(torch.full((1, 4), float("inf"))).sum())
    state = wrapper.state_dict()
    assert state["loss_scaler"]["scale"] == 2.0**15
    other.load_state_dict(state)
    assert scale_of(other) == 2.0**15


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", "float16", dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")),
        ("cuda", "bfloat16", dict(type="BFloat16OptimWrapper")),
        ("cpu", "float16", dict(type="CPUFloat16OptimWrapper")),
        ("cpu", "bfloat16", dict(type="BFloat16OptimWrapper")),
    ],
)
def test_each_device_has_its_wrapper(device, dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert amp_wrapper(device, dtype) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_a_config_set_for_another_wrapper_is_dropped(dtype):
    own = dict(optimizer=dict(type="SGD", lr=0.1), clip_grad=dict(max_norm=3.0))
    scaled = dict(own, type="AmpOptimWrapper", loss_scale=512.0, dtype="float16")
    settings = train_in_mixed_precision(scaled, "cpu", dtype)
    assert settings == own | amp_wrapper("cpu", dtype)
    wrapper = build_optim_wrapper(nn.Linear(2, 2), settings)
    assert wrapper.clip_grad_kwargs == dict(max_norm=3.0)


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    # PyTorch counts an emulation that convolutions lack
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    with pytest.raises(ValueError, match=r"Old GPU cannot.*bfloat16.*fp16"):
        amp_wrapper("cuda", "bfloat16")


def test_another_dtype_is_named():
    with pytest.raises(ValueError, match="float16, bfloat16, got 'float64'"):
        amp_wrapper("cpu", "float64")


def require_finite_weights(checkpoint):
    weights = read_checkpoint(checkpoint)["state_dict"]
    assert all(torch.isfinite(x).all() for x in weights.values())


@pytest.mark.slow
def test_mixed_precision_and_a_scaled_learning_rate_train(tmp_path):
    options = ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=16"]
    options += ["train_dataloader.batch_size=8"]
    code, out, err = run_warm(*train(tmp_path, "--amp", "--auto-scale-lr", options=options))
    assert code == 0, err
    assert "BFloat16OptimWrapper" in out or torch.cuda.is_available()
    # a batch of 8 is half of the 16 that the rate of the mini set is for
    assert "Scaling the original LR by 0.5" in out
    require_finite_weights(tmp_path / "epoch_1.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "wrapper"), [("bf16", "BFloat16OptimWrapper"), ("fp16", "CPUFloat16OptimWrapper")]
)
def test_the_dtype_of_mixed_precision_can_be_named(dtype, wrapper, tmp_path):
    # quick in float16 on a CPU, too
    config = "configs/imagenet_swiftformer_xs.py"
    options = ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=12"]
    options += ["train_dataloader.batch_size=4"]
    code, out, err = run_warm(*train(tmp_path, "--amp", dtype, config=config, options=options))
    assert code == 0, err
    assert f"type='{wrapper}'" in out or torch.cuda.is_available()
    require_finite_weights(tmp_path / "epoch_1.pth")
