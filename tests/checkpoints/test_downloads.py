"""Checkpoints behind URLs: downloaded once, and named when something goes wrong."""

from hashlib import sha256
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch

from hybrid_backbones.checkpoints import read_state_dict

URL = "https://example.org/weights.pth?version=1"


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """What a server sends in turn, and how often it was asked."""
    sent, asked = [], []

    def download(url, destination, hash_prefix=None):
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
    with pytest.raises(ValueError, match=rf"cannot read '{tmp_path}/.*weights\.pth'.*delete it"):
        read_state_dict(URL)


def test_each_url_has_its_own_file(downloads):
    sent, asked = downloads
    urls = [
        URL,
        URL.replace("=1", "=2"),
        URL.replace("org", "org/other"),
        URL.replace("org", "com"),
    ]
    for value in range(len(urls)):
        sent.append(lambda destination, x=value: torch.save(dict(x=torch.tensor(x)), destination))
    for _ in range(2):
        assert [read_state_dict(url)["x"].item() for url in urls] == [0, 1, 2, 3]
    assert asked == urls


@pytest.fixture
def checksum(monkeypatch, tmp_path):
    """SHA-256 of what PyTorch's own downloader gets from any URL."""
    path = tmp_path / "sent"
    torch.save(dict(x=torch.ones(2)), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: urlopen(path.as_uri()))
    return sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["a-{}.pth", "a_20200205_004453-{}.pth", "a-20220101.pth", "a-b.pth"]
)
def test_a_file_of_its_checksum_or_without_one_is_read(checksum, name):
    url = f"https://example.org/{name.format(checksum[:8])}"
    assert torch.equal(read_state_dict(url)["x"], torch.ones(2))


def test_a_file_of_another_checksum_is_refused(checksum, tmp_path):
    with pytest.raises(ValueError, match=r"cannot download .*a-0000000f\.pth.*hash"):
        read_state_dict("https://example.org/a-0000000f.pth")
    assert not list(tmp_path.rglob("*.pth"))
