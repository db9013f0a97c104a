"""Hybrid convolution / self-attention backbones for OpenMMLab.

Importing the package registers everything: with
``custom_imports = dict(imports=['hybrid_backbones'])`` any mmdet, mmseg or mmpretrain config can
use the backbones, the operators, the training hooks, and the components for its framework.
Configs of the hosts can be inherited by `_base_ = 'mmseg::...'` with both sets of packages.
"""

from . import mmcv_ops

# must precede every import of mmdet or mmseg, which need the operators at import
mmcv_ops.install()

from . import backbones, checkpoints, explain, ops, registration, training  # noqa: E402

registration.register_with_hosts()
registration.correct_distributions()
registration.forbid_installations()

__version__ = "0.1.0"
__all__ = ["backbones", "checkpoints", "explain", "mmcv_ops", "ops", "training"]
