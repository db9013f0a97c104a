"""Operators: pure functions on tensors, and the `nn.Module` classes that hold their weights.

Shape letters used throughout the package:

``B`` batch, ``C`` channels, ``H W`` height and width of a feature map, ``H' W'`` the same after a
stride, ``N`` tokens, ``M`` keys or tokens attended to, ``h`` attention heads, ``d`` channels of one
head, ``K`` kernel side, ``R`` regions or windows of a map, ``T`` tokens of one region or window
(``T = window_size²``), ``k`` top-k regions, ``Q`` sketches of one query.

Operators with a hand-written gradient can be differentiated twice, and `torch.func` transforms
them: ``grad``, ``vjp``, ``jacrev``, and ``vmap``, which computes one sample after another; Triton's
kernels then give way to PyTorch's operations. They have no forward-mode derivatives: ``jvp`` and
``jacfwd`` raise PyTorch's NotImplementedError. Of windows on a GPU, and of attention to all
positions, PyTorch's own attention kernels have no second derivatives, but for that which
``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` chooses.
"""

from .acmix import ACmix
from .acmix_swin import ACmixWindow
from .biformer import AttentionLePE, BiLevelRoutingAttention, BiLevelRoutingAttention2d
from .local_attention import local_attention
from .mixformer import MixingAttention
from .pixel_shift_attention import pixel_shift_attention
from .routed_attention import routed_attention
from .swiftformer import EfficientAdditiveAttention, efficient_additive_attention
from .uniformer import GlobalRelationAggregator, LocalRelationAggregator
from .window_attention import shifted_window_attention
from .xvolution import MergedXVolution, XVolution

__all__ = [
    "ACmix",
    "ACmixWindow",
    "AttentionLePE",
    "BiLevelRoutingAttention",
    "BiLevelRoutingAttention2d",
    "EfficientAdditiveAttention",
    "GlobalRelationAggregator",
    "LocalRelationAggregator",
    "MergedXVolution",
    "MixingAttention",
    "XVolution",
    "efficient_additive_attention",
    "local_attention",
    "pixel_shift_attention",
    "routed_attention",
    "shifted_window_attention",
]
