"""Laws of addresses of the Hugging Face hub and of Google Drive, and of files of safetensors."""

import errno
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from gdown.exceptions import FileURLRetrievalError
from safetensors.torch import save
from weights_server import checkpoint, kept

from hybrid_backbones.checkpoints import read_state_dict
from hybrid_backbones.checkpoints.fetch import fetch

pytestmark = pytest.mark.upstream


def safetensors(value=1.0):
    return save(dict(x=torch.full((2,), value)))


def value_of(address):
    return read_state_dict(address)["x"][0].item()


def snapshots(tmp_path):
    """Return what the hub's cache has under names, and the contents behind them."""
    names = [path for path in (tmp_path / "hub").rglob("*") if path.is_symlink()]
    return names, [*(tmp_path / "hub").rglob("blobs/*")]


def test_a_file_of_the_hub_is_downloaded_once_into_its_own_cache(hub, server, tmp_path):
    hub("org/repo", "a.pth", checkpoint(1))
    hub("org/repo", "b/a.pth", checkpoint(2))
    hub("org/other", "a.pth", checkpoint(3))
    hub("org/repo", "a.pth", checkpoint(4), revision="v2")
    addresses = [
        *("hf://org/repo/a.pth", "hf://org/repo/b/a.pth"),
        *("hf://org/other/a.pth", "hf://org/repo@v2/a.pth"),
    ]
    for _ in range(2):
        assert [value_of(address) for address in addresses] == [1, 2, 3, 4]
    assert len([one for one in server.asked if one[0] == "GET" and "resolve" in one[1]]) == 4
    names, contents = snapshots(tmp_path)
    assert len(names) == len(contents) == 4
    assert kept(tmp_path / "cache") == []


def test_a_repository_in_timms_spelling_gives_safetensors_or_else_a_pickle(hub):
    hub("timm/both", "model.safetensors", safetensors(1))
    hub("timm/both", "pytorch_model.bin", checkpoint(2))
    hub("MBZUAI/old", "pytorch_model.bin", checkpoint(3))
    hub("timm/both", "model.safetensors", safetensors(4), revision="v2")
    addresses = ["hf-hub:timm/both", "hf-hub:MBZUAI/old", "hf-hub:timm/both@v2"]
    assert [value_of(address) for address in addresses] == [1, 3, 4]


@pytest.mark.parametrize("address", ["hf://org/repo/none.pth", "hf-hub:org/repo"])
def test_what_the_hub_does_not_have_is_named_in_one_line(address, hub):
    with pytest.raises(ValueError, match=rf"^cannot download '{address}': .*404") as caught:
        fetch(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["hf-hub:a--b/c", "hf://a b/c/d.pth", "hf-hub:a/b@c d"])
def test_what_the_hub_does_not_admit_is_named_in_one_line(address, hub):
    with pytest.raises(ValueError, match=rf"^cannot download '{address}': ") as caught:
        fetch(address)
    assert "\n" not in str(caught.value)


BAD_CONTENTS = {
    "web page": (b"<html>", "web page"),
    "another hash": (checkpoint(), "SHA-256"),
    "damaged": (checkpoint()[:-40], "cut short"),
}


@pytest.mark.parametrize("kind", BAD_CONTENTS)
def test_what_is_no_checkpoint_does_not_stay_in_the_cache_of_the_hub(kind, hub, tmp_path):
    content, says = BAD_CONTENTS[kind]
    name = "a-0000000f.pth" if kind == "another hash" else "a.pth"
    hub("org/repo", name, content)
    address = f"hf://org/repo/{name}"
    with pytest.raises(ValueError, match=rf"^cannot download '{address}': .*{says}"):
        fetch(address)
    assert snapshots(tmp_path) == ([], [])


FAILURES = {
    "silent": (TimeoutError("The read operation timed out"), "timed out"),
    "storage": (RuntimeError("Data processing error:\n no route"), "error: no route"),
    "disk": (OSError(errno.ENOSPC, "No space left"), r"No space left: free some space"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_of_the_hub_is_named(kind, cache, monkeypatch):
    error, says = FAILURES[kind]

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ValueError, match=rf"^cannot download 'hf://org/repo/a.pth': .*{says}$"):
        fetch("hf://org/repo/a.pth")


def test_offline_the_hub_is_not_asked(hub, server, monkeypatch):
    hub("org/repo", "a.pth", checkpoint())
    path = fetch("hf://org/repo/a.pth")
    asked = len(server.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("hf://org/repo/a.pth") == path
    with pytest.raises(ValueError, match=r"b\.pth is not in the cache, and HF_HUB_OFFLINE"):
        fetch("hf://org/repo/b.pth")
    assert len(server.asked) == asked


PAGES = {
    "page": "https://drive.google.com/file/d/1-uepH3/view",
    "shared": "https://drive.google.com/file/d/1-uepH3/view?usp=sharing",
    "open": "https://drive.google.com/open?id=1-uepH3",
    "download": "https://drive.google.com/uc?export=download&id=1-uepH3",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_drive_is_left_to_gdown_and_named_by_its_file(page, cache, monkeypatch):
    asked = []

    def download(url, output, **_):
        asked.append(url)
        Path(output).write_bytes(checkpoint(3))
        return output

    monkeypatch.setattr("gdown.download", download)
    for _ in range(2):
        assert value_of(PAGES[page]) == 3
    assert asked == [PAGES[page]]
    assert [path.name for path in kept(cache)] == ["1-uepH3.pth"]


def test_a_quota_page_of_drive_is_named_in_one_line(cache, monkeypatch):
    def refuse(*_, **__):
        raise FileURLRetrievalError(
            "Failed to retrieve file url:\n\n\tToo many users have viewed or\n\tdownloaded it"
        )

    monkeypatch.setattr("gdown.download", refuse)
    with pytest.raises(ValueError, match="Too many users have viewed or downloaded it") as caught:
        fetch(PAGES["page"])
    assert "\n" not in str(caught.value)
    assert kept(cache) == []


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors_are_known_by_their_content(name, tmp_path):
    (tmp_path / name).write_bytes(safetensors(5))
    assert value_of(tmp_path / name) == 5


def test_safetensors_cut_short_anywhere_are_refused(tmp_path):
    content, path = safetensors(), tmp_path / "short.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cannot read .*short\.safetensors"):
            read_state_dict(path)


def test_a_bit_that_flips_in_the_cache_is_found_where_the_hash_is_known(server, cache):
    contents = {sha256(one).hexdigest()[:8]: one for one in map(checkpoint, range(9))}
    # digits alone are rather a date
    start, content = next((x, one) for x, one in contents.items() if not x.isdigit())
    name = f"/a-{start}.pth"
    path = fetch(server.add(name, content))
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    path.write_bytes(damaged)
    assert fetch(server.url + name).read_bytes() == content
    assert len(server.asked) == 2
