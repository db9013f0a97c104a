"""Operators on tensors: pure functions first, then the modules that own weights.

Shapes are written in one alphabet throughout the package:

``B`` batch, ``C`` channels, ``H W`` height and width of a map, ``H' W'`` the same after a stride,
``N`` tokens, ``n`` windows or tokens of one region, ``M`` tokens that are attended to, ``h`` heads,
``d`` channels of one head, ``K`` kernel side, ``R`` regions, ``k`` top-k regions, ``S`` sketches.

Operators with a gradient of their own can be differentiated twice, and `torch.func` transforms
them: ``grad``, ``vjp``, ``jacrev``, and ``vmap``, which computes one sample after another. They
have no forward-mode derivatives: ``jvp`` and ``jacfwd`` raise PyTorch's NotImplementedError.
"""

from .acmix import ACmix
from .acmix_window import ACmixWindow
from .additive_attention import EfficientAdditiveAttention, efficient_additive_attention
from .local_attention import local_attention
from .mixing_attention import MixingAttention
from .pixel_shift_attention import pixel_shift_attention
from .relation_aggregator import GlobalRelationAggregator, LocalRelationAggregator
from .routed_attention import routed_attention
from .routing_attention import BiLevelRoutingAttention
from .sketch_fusion import CrossFusion, SketchMixer, StageFusion
from .window_attention import shifted_window_attention
from .xvolution import MergedXVolution, XVolution

__all__ = [
    "ACmix",
    "ACmixWindow",
    "BiLevelRoutingAttention",
    "CrossFusion",
    "EfficientAdditiveAttention",
    "GlobalRelationAggregator",
    "LocalRelationAggregator",
    "MergedXVolution",
    "MixingAttention",
    "SketchMixer",
    "StageFusion",
    "XVolution",
    "efficient_additive_attention",
    "local_attention",
    "pixel_shift_attention",
    "routed_attention",
    "shifted_window_attention",
]
