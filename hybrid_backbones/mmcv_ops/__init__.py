"""Stand-in for mmcv's compiled extension, based on torchvision.

A plain `pip install` provides mmcv without its compiled module `mmcv._ext`, so `import mmcv.ops`
and `import mmdet.models` fail. `install` puts a stand-in in place of an absent `mmcv._ext`. Its
operators follow mmcv's calling conventions (positional tensors, results written into tensors that
the caller allocates, settings by keyword) and run on CPU and CUDA, in all floating-point dtypes and
with gradients; all other operators raise `NotImplementedError` when called.
"""

import importlib.util
import sys
import types
from functools import partial
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from . import boxes, deformable, losses, pooling, reassembly, rotated
from .support import refuse

_OPERATORS = [
    boxes.nms, boxes.softnms, boxes.nms_match, boxes.bbox_overlaps,
    rotated.box_iou_rotated, rotated.nms_rotated,
    pooling.roi_align_forward, pooling.roi_align_backward,
    losses.sigmoid_focal_loss_forward, losses.sigmoid_focal_loss_backward,
    losses.softmax_focal_loss_forward, losses.softmax_focal_loss_backward,
    deformable.deform_conv_forward, deformable.deform_conv_backward_input,
    deformable.deform_conv_backward_parameters,
    deformable.modulated_deform_conv_forward, deformable.modulated_deform_conv_backward,
    deformable.ms_deform_attn_forward, deformable.ms_deform_attn_backward,
    reassembly.carafe_forward, reassembly.carafe_backward,
    reassembly.carafe_naive_forward, reassembly.carafe_naive_backward,
    reassembly.psamask_forward, reassembly.psamask_backward,
    reassembly.masked_im2col_forward, reassembly.masked_col2im_forward,
]  # fmt: skip


class _StandIn(types.ModuleType):
    """Module `mmcv._ext` with the operators above; all others raise an error when called."""

    def get_compiler_version(self) -> str:
        return "not available (stand-in operators)"

    get_compiling_cuda_version = get_compiler_version

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        # mmcv.ops reads over a hundred names on import, so only calls may raise the error
        return partial(refuse, name)


def is_standin() -> bool:
    """Return whether `mmcv._ext` is the stand-in."""
    return isinstance(sys.modules.get("mmcv._ext"), _StandIn)


def install() -> bool:
    """Install the stand-in if `mmcv._ext` is absent, and return whether it is active.

    It stays inactive if mmcv is missing or compiled (`import mmcv.ops` then shows any problem).
    """
    if is_standin():
        return True
    mmcv = importlib.util.find_spec("mmcv")
    if "mmcv._ext" in sys.modules or mmcv is None:
        return False
    # search without importing mmcv, which takes a second and can fail for other reasons
    if PathFinder.find_spec("mmcv._ext", mmcv.submodule_search_locations) is not None:
        return False
    module = _StandIn("mmcv._ext", __doc__)
    # without a loader mmengine 0.10.7 assumes that mmcv has no deformable convolutions
    module.__spec__ = ModuleSpec("mmcv._ext", Loader(), origin=__name__)
    module.__dict__.update({operator.__name__: operator for operator in _OPERATORS})
    sys.modules["mmcv._ext"] = module
    if "mmcv" in sys.modules:
        sys.modules["mmcv"].__dict__["_ext"] = module
    return True
