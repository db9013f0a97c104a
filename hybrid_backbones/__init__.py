"""Hybrid convolution / self-attention backbones for OpenMMLab.

Importing the package registers everything: with
``custom_imports = dict(imports=['hybrid_backbones'])`` any mmdet, mmseg or mmpretrain config knows
the backbones, the operators, the training hooks, and what there is for its host.
"""

from . import mmcv_ops

# before anything imports mmdet or mmseg, which need the operators at import
mmcv_ops.install()

from . import backbones, checkpoints, ops, registration, training  # noqa: E402

registration.register_with_hosts()

__version__ = "0.1.0"
__all__ = ["backbones", "checkpoints", "mmcv_ops", "ops", "training"]
