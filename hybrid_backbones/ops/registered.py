"""Operators that configs name as layers, registered in mmengine's root `MODELS`.

They stand apart from the operators, which run without mmengine.
"""

from mmengine.registry import MODELS

from .acmix import ACmix
from .xvolution import MergedXVolution, XVolution

for layer in (ACmix, MergedXVolution, XVolution):
    MODELS.register_module(module=layer)
