"""Each operator's ONNX file takes any batch and size."""

import pytest
import torch
from tiers import few_of

from hybrid_backbones.deploy import export_onnx
from hybrid_backbones.ops import (
    ACmix,
    AttentionLePE,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    EfficientAdditiveAttention,
    GlobalRelationAggregator,
    MixingAttention,
    XVolution,
)
from hybrid_backbones.ops.acmix_swin import ACmixWindow

pytest.importorskip("onnxruntime", reason="needs the extra deploy")

OPERATORS = [
    pytest.param(lambda: ACmix(3, 8, stride=2), id="acmix"),
    pytest.param(lambda: ACmixWindow(8, 2, 5, 2), id="acmix-shifted-windows"),
    pytest.param(lambda: AttentionLePE(8, 2), id="full-attention"),
    pytest.param(lambda: BiLevelRoutingAttention(8, 2, 4, 3), id="routing"),
    pytest.param(lambda: BiLevelRoutingAttention2d(8, 2, 4, 3), id="routing-pointwise"),
    pytest.param(lambda: EfficientAdditiveAttention(8), id="additive"),
    pytest.param(lambda: GlobalRelationAggregator(8, 4), id="global"),
    pytest.param(lambda: GlobalRelationAggregator(8, 4, window_size=6), id="windows"),
    pytest.param(lambda: MixingAttention(16, 2), id="mixing"),
    pytest.param(lambda: torch.nn.Sequential(XVolution(3, 8)), id="xvolution"),
]
QUICK = ("additive", "full-attention", "global", "mixing", "routing", "windows", "xvolution")


@pytest.mark.parametrize("make", few_of(OPERATORS, *QUICK))
def test_an_operator_takes_any_batch_and_size(make, tmp_path):
    torch.manual_seed(0)
    operator = make().eval()
    if isinstance(operator, ACmix | torch.nn.Sequential):
        channels = 3
    else:
        channels = 16 if isinstance(operator, MixingAttention) else 8
    report = export_onnx(
        operator,
        tmp_path / "operator.onnx",
        (13, 20),
        dynamic=True,
        example=lambda batch, *size: torch.randn(batch, channels, *size),
    )
    assert max(report["errors"].values()) <= 1e-4
