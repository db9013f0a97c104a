"""A published checkpoint, in memory and on file; a server, a cache, and what is logged."""

import logging

import pytest
import torch
from checkpoint_cases import DEPTH
from helpers import golden_files, published_weights
from mmengine.logging import MMLogger
from weights_server import serve


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


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder for downloads, empty and the user's choice."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def messages():
    """What is logged meanwhile, as (level, text)."""
    texts, handler = [], logging.Handler(logging.INFO)
    handler.emit = lambda record: texts.append((record.levelname, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


@pytest.fixture
def hub(server, cache, monkeypatch):
    """Function that puts a file on a stand-in for the Hugging Face hub, which the client asks."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)

    def put(repository, name, content, revision="main"):
        server.add(f"/{repository}/resolve/{revision}/{name}", content)

    return put
