"""Operators on tensors: pure functions first, then the modules that own weights.

Shapes are written in one alphabet throughout the package:

``B`` batch, ``C`` channels, ``H W`` height and width of a map, ``H' W'`` the same after a stride,
``N`` tokens, ``h`` heads, ``d`` channels of one head, ``K`` kernel side, ``R`` regions, ``k`` top-k
regions.
"""

from .acmix import ACmix
from .local_attention import local_attention

__all__ = ["ACmix", "local_attention"]
