"""Laws of downloads: each address has its own file, which is whole, expected and fetched once."""

import errno
import multiprocessing
import os
import pickle
import re
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from gdown.exceptions import DownloadError
from safetensors.torch import save
from weights_server import checkpoint, kept

from hybrid_backbones.checkpoints import read_state_dict
from hybrid_backbones.checkpoints.fetch import fetch

pytestmark = pytest.mark.upstream


FORMATS = {
    ".pth": checkpoint(),
    ".safetensors": save(dict(x=torch.ones(2))),
    ".pdparams": pickle.dumps(dict(x=np.ones(2, "float32"))),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_all_formats_are_downloaded(suffix, server, cache):
    url = server.add(f"/a{suffix}", FORMATS[suffix])
    assert torch.equal(read_state_dict(url)["x"], torch.ones(2))


class Trap:
    """Makes a directory where it is unpickled."""

    def __reduce__(self):
        return Path.mkdir, (Path("trap"),)


def test_a_checkpoint_is_downloaded_once_into_the_folder_of_the_users_choice(server, cache):
    url = server.add("/a.pth", checkpoint())
    for _ in range(2):
        assert torch.equal(read_state_dict(url)["x"], torch.ones(2))
    assert server.asked == [("GET", "/a.pth", 0)]
    assert [path.name for path in kept(cache)] == ["a.pth"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_a_download_as_the_user_admits(umask, mode, server, cache):
    before = os.umask(umask)
    try:
        path = fetch(server.add("/a.pth", checkpoint()))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_size_and_hash_are_logged_at_the_download_and_at_each_load(server, cache, messages):
    content = checkpoint()
    url, described = server.add("/a.pth", content), f"{len(content)} bytes, SHA-256 "
    described += sha256(content).hexdigest()
    read_state_dict(url)
    assert ("INFO", f"downloaded {url}: {described}") in messages
    messages.clear()
    read_state_dict(url)
    assert messages == [("INFO", f"read {kept(cache)[0]}: {described}")]


def test_each_address_has_its_own_file(server, cache):
    urls = [
        server.add(path, checkpoint(value)) + query
        for value, (path, query) in enumerate([("/a.pth", ""), ("/b/a.pth", ""), ("/c", "?v=1")])
    ]
    urls.append(urls[0].replace("127.0.0.1", "localhost"))
    for _ in range(2):
        assert [read_state_dict(url)["x"][0].item() for url in urls] == [0, 1, 2, 0]
    assert len(server.asked) == len(kept(cache)) == 4


# what a server sends, the name of the file, and what the error says
BAD_ANSWERS = {
    "absent": (None, "a.pth", r"404 .*Not Found"),
    "web page": (b"\n<!DOCTYPE HTML><p>Quota", "a.pth", r"web page \(HTML\)"),
    "error of a store": (b"<?xml version='1.0'?><Error>", "a.pdparams", r"web page \(HTML\)"),
    "text": (b"hello", "a.pth", "cannot read"),
    "empty": (b"", "a.pth", "empty"),
    "damaged": (checkpoint()[:-40], "a.pth", "damaged or cut short"),
    "code": (checkpoint(trap=Trap()), "a.pth", r"names pathlib\S* which .* may run code"),
    "another hash": (checkpoint(), "a-0000000f.pth", r"SHA-256 \w{64} instead of 0000000f"),
    "safetensors cut short": (b"\x40" + bytes(7) + b'{"x"', "a.safetensors", "safetensors"),
    "no Paddle": (checkpoint(), "a.pdparams", "no Paddle weights"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_what_is_no_checkpoint_is_named_in_one_line_and_not_kept(kind, server, cache, tmp_path):
    content, name, says = BAD_ANSWERS[kind]
    url = f"{server.url}/{name}"
    if content is not None:
        server.add(f"/{name}", content)
    with pytest.raises(ValueError, match=rf"^cannot download '{url}': .*{says}") as caught:
        fetch(url)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (cache / "hub/checkpoints").iterdir()] == [".locks"]
    assert kept(cache) == []
    assert not (tmp_path / "trap").exists()


def test_a_server_that_is_silent_or_absent_is_named(server, cache, monkeypatch):
    monkeypatch.setattr("hybrid_backbones.checkpoints.fetch.TIMEOUT", 0.2)
    server.add("/a.pth", checkpoint())
    server.silent.add("/a.pth")
    with pytest.raises(ValueError, match=r"^cannot download \S+a\.pth': .*timed out"):
        fetch(f"{server.url}/a.pth")
    with pytest.raises(ValueError, match=r"^cannot download \S+a\.pth': .*[Cc]onnection refused"):
        fetch("http://127.0.0.1:9/a.pth")
    assert kept(cache) == []


@pytest.mark.parametrize("address", ["hf://org/file.pth", "hf-hub:timm", "hf://a/b/"])
def test_an_incomplete_address_of_the_hub_is_refused(address, cache):
    with pytest.raises(ValueError, match=rf"'{address}': expected hf://ORG/REPO/FILE or hf-hub"):
        fetch(address)


@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
def test_an_interrupted_download_leaves_no_checkpoint_and_goes_on(has_ranges, server, cache):
    content = checkpoint(size=400_000)
    url = server.add("/a.pth", content)
    server.has_ranges = has_ranges
    begun = 0
    # gdown asks for the whole file first, then for what is missing
    for start, end in [(0, 600_000), (524_288, 1_100_000)][: 1 + has_ranges]:
        server.cut_at["/a.pth", start] = end
        with pytest.raises(ValueError, match=r"^cannot download \S+a\.pth': .*incomplete"):
            fetch(url)
        (part,) = kept(cache)
        assert part.suffix == ".part"
        assert begun < part.stat().st_size <= end
        begun = part.stat().st_size
    server.asked.clear()
    assert fetch(url).read_bytes() == content
    assert [path.name for path in kept(cache)] == ["a.pth"]
    assert (("GET", "/a.pth", begun) in server.asked) == has_ranges


def begin(url, server, cache):
    """Download the beginning of a file, and return the path of what is kept."""
    server.cut_at["/a.pth", 0] = 600_000
    with pytest.raises(ValueError, match="incomplete"):
        fetch(url)
    (part,) = kept(cache)
    return part


@pytest.mark.parametrize("refusal", [503, 429, None], ids=["busy", "too many", "cut off"])
def test_what_was_begun_is_kept_while_the_server_fails_for_a_moment(refusal, server, cache):
    content = checkpoint(size=400_000)
    url = server.add("/a.pth", content)
    part = begin(url, server, cache)
    begun = part.read_bytes()
    server.refusal = refusal
    if refusal is None:
        server.cut_at["/a.pth", len(begun)] = len(begun)
    with pytest.raises(ValueError, match=rf"Try again later, .* continues {part}, or delete it"):
        fetch(url)
    assert kept(cache) == [part]
    assert part.read_bytes() == begun
    server.refusal = None
    server.asked.clear()
    assert fetch(url).read_bytes() == content
    assert ("GET", "/a.pth", len(begun)) in server.asked


def test_a_page_in_front_of_a_file_is_not_taken_for_the_whole_file(server, cache, monkeypatch):
    url = server.add("/file/d/some-id/view", b"<!DOCTYPE html>")
    monkeypatch.setattr("hybrid_backbones.checkpoints.fetch.DRIVE_ID", re.compile(r".*/d/([\w-]+)"))

    def fails(address, output, **_):
        Path(f"{output}12345678.part").write_bytes(b"begun")
        raise DownloadError("too many have asked for it.")

    monkeypatch.setattr("gdown.download", fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="too many"):
            fetch(url)
        assert [path.read_bytes() for path in kept(cache)] == [b"begun"]
    assert server.asked == []


def test_what_was_begun_of_a_shorter_file_is_fetched_anew(server, cache):
    url = server.add("/a.pth", checkpoint(size=400_000))
    begin(url, server, cache)
    server.add("/a.pth", checkpoint(2.0))
    assert fetch(url).read_bytes() == checkpoint(2.0)
    assert [path.name for path in kept(cache)] == ["a.pth"]


def full_disk(address, output, **_):
    Path(f"{output}12345678.part").write_bytes(b"begun")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_what_was_begun_is_removed(cache, monkeypatch):
    monkeypatch.setattr("gdown.download", full_disk)
    with pytest.raises(ValueError, match=r"No space left on device: free some space$"):
        fetch("https://example.org/a.pth")
    assert kept(cache) == []


@pytest.mark.parametrize(
    "name", ["a-{}.pth", "a_20200205_004453-{}.pth", "a-20220101.pth", "a-b.pth"]
)
def test_a_file_of_its_checksum_or_without_one_is_read(name, server, cache):
    content = checkpoint()
    path = "/" + name.format(sha256(content).hexdigest()[:8])
    assert torch.equal(read_state_dict(server.add(path, content))["x"], torch.ones(2))


def test_proxies_are_asked(server, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.add("http://weights.invalid/a.pth", checkpoint())
    assert torch.equal(read_state_dict("http://weights.invalid/a.pth")["x"], torch.ones(2))


def test_offline_only_the_cache_is_asked(server, cache, monkeypatch):
    urls = [server.add(path, checkpoint()) for path in ("/a.pth", "/b.pth")]
    fetch(urls[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch(urls[0]).is_file()
    with pytest.raises(ValueError, match=r"b\.pth is not in the cache, and HF_HUB_OFFLINE"):
        fetch(urls[1])
    assert [path for _, path, _ in server.asked] == ["/a.pth"]


def fetch_into(url, found):
    found.put(sha256(fetch(url).read_bytes()).hexdigest())


def test_two_processes_that_want_one_file_at_once_both_get_it_whole(server, cache):
    content = checkpoint(size=100_000)
    url = server.add("/a.pth", content)
    server.go_on.clear()
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=fetch_into, args=(url, found)) for _ in range(2)]
    for process in processes:
        process.start()
    # both are waiting while the file is not complete
    assert server.half_sent.wait(20)
    assert found.empty()
    server.go_on.set()
    assert [found.get(timeout=20) for _ in processes] == [sha256(content).hexdigest()] * 2
    for process in processes:
        process.join()
    assert len(server.asked) == 1
    assert [path.name for path in kept(cache)] == ["a.pth"]


def test_a_killed_download_leaves_no_checkpoint_and_goes_on(server, cache):
    content = checkpoint(size=400_000)
    url = server.add("/a.pth", content)
    server.go_on.clear()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=fetch, args=(url,))
    process.start()
    while not any(path.stat().st_size for path in cache.rglob("*.part")):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    server.go_on.set()
    (part,) = kept(cache)
    begun = part.stat().st_size
    assert part.suffix == ".part"
    assert fetch(url).read_bytes() == content
    assert ("GET", "/a.pth", begun) in server.asked


@pytest.mark.parametrize("path", ["/", "/a/..", "/?file=../../a.pth", "/..%2Fa.pth"])
def test_addresses_cannot_name_files_outside_their_folder(path, server, cache, monkeypatch):
    monkeypatch.setattr("gdown.download", lambda _, to, **more: Path(to).write_bytes(checkpoint()))
    found = fetch(server.url + path)
    assert found.resolve().parent.parent == (cache / "hub/checkpoints").resolve()
