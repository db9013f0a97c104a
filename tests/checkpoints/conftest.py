"""A published checkpoint, in memory and on file."""

import pytest
import torch
from checkpoint_cases import DEPTH
from helpers import golden_files, published_weights


@pytest.fixture(scope="module")
def weights():
    """A checkpoint under published names, the classifier's included; treat it as read-only."""
    ((_, golden),) = golden_files(f"acmix_resnet{DEPTH}.json")
    return published_weights(golden)


@pytest.fixture(scope="module")
def saved(weights, tmp_path_factory):
    """The same checkpoint as the published training script writes it."""
    path = tmp_path_factory.mktemp("checkpoints") / "model_best.pth.tar"
    content = {f"module.{name}": value for name, value in weights.items()}
    torch.save(dict(epoch=90, best_acc1=77.8, state_dict=content), path)
    return path
