"""What a network looks at: attention, routes, rates, gates, kept tokens, kernels, gradients."""

from .features import principal_colours, stage_features, stage_paths
from .gradients import class_activation, receptive_field
from .look import attending_modules, attention
from .records import record

__all__ = [
    "attending_modules",
    "attention",
    "class_activation",
    "principal_colours",
    "receptive_field",
    "record",
    "stage_features",
    "stage_paths",
]
