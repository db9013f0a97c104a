"""Implementations of operators: which of them are measured on a device."""

from ..ops import triton_support

# implementations that run on GPUs, and elsewhere in Triton's interpreter only
CUDA_ONLY = ("triton",)
# those that have gradients on GPUs only
INFERENCE_ELSEWHERE = ("flex",)


def can_run(implementation: str, device: str) -> bool:
    """Return whether an implementation is to be measured on a device."""
    return device == "cuda" or triton_support.INTERPRETED or implementation not in CUDA_ONLY


def has_gradients(implementation: str, device: str) -> bool:
    """Return whether the gradients of an implementation are to be measured on a device."""
    return device == "cuda" or implementation not in INFERENCE_ELSEWHERE
