"""Checkpoints behind URLs: downloaded once, and named when something goes wrong."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from hybrid_backbones.checkpoints import read_state_dict

URL = "https://example.org/weights.pth?version=1"


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """What a server sends in turn, and how often it was asked."""
    sent, asked = [], []

    def download(url, destination):
        asked.append(url)
        sent[len(asked) - 1](destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return sent, asked


def fail(destination):
    raise URLError("no route")


def test_a_checkpoint_is_downloaded_once(downloads):
    sent, asked = downloads
    sent.append(lambda destination: torch.save(dict(x=torch.ones(2)), destination))
    for _ in range(2):
        assert torch.equal(read_state_dict(URL)["x"], torch.ones(2))
    assert asked == [URL]


def test_a_failing_download_is_named(downloads, tmp_path):
    sent, _ = downloads
    sent.append(fail)
    with pytest.raises(ValueError, match=r"cannot download 'https://example.org.*no route"):
        read_state_dict(URL)
    assert not list(tmp_path.rglob("*.pth"))


def test_a_download_that_was_cut_short_says_what_to_delete(downloads, tmp_path):
    sent, _ = downloads
    sent.append(lambda destination: Path(destination).write_bytes(b""))
    path = tmp_path / "checkpoints" / "weights.pth"
    with pytest.raises(ValueError, match=rf"cannot read '{path}'.*delete it"):
        read_state_dict(URL)
