"""Which cases of a law are part of .ci/run, and which are left to `pytest -m exhaustive`."""

from pathlib import Path

import pytest

# configs that have each backbone, head and kind of data set once
QUICK = {
    *("imagenet_acmix_r26", "imagenet_acmix_swin_t", "imagenet_biformer_stl"),
    *("imagenet_mixformer_b0", "imagenet_uniformer_xxs", "imagenet_xvolution_r34_sa"),
    *("maskrcnn_uniformer_s_3x", "retinanet_swiftformer_l1", "fpn_swiftformer_l1"),
    *("upernet_acmix_r26", "locformer_swin_t", "locformer_swin_t_released"),
    *("cascade_rcnn_swiftformer_xs", "rtmdet_uniformer_xxs", "rtmdetins_mixformer_b1"),
    *("deformable_detr_uniformer_xxs", "dino_mixformer_b1", "segformer_uniformer_xxs"),
    *("mask2former_coco_swiftformer_xs", "mask2former_ade_mixformer_b1"),
}


def one_of_each(configs, *marks):
    """Return configs, by their paths or names; .ci/run takes the quick ones, with these marks."""
    return [
        pytest.param(
            config,
            id=Path(config).stem,
            marks=marks if Path(config).stem in QUICK else pytest.mark.exhaustive,
        )
        for config in configs
    ]


def few_of(cases, *taken):
    """Return the cases of a slow law, those that are not taken as exhaustive ones.

    Args:
        cases: names, or parameters with an `id`.
        taken: names of those that are part of .ci/run.
    """
    named = [case if hasattr(case, "id") else pytest.param(case, id=case) for case in cases]
    assert {*taken} <= {case.id for case in named}
    return [
        pytest.param(
            *case.values,
            id=case.id,
            marks=pytest.mark.slow if case.id in taken else pytest.mark.exhaustive,
        )
        for case in named
    ]
