"""Laws of published names: they stand for their files wherever a path does."""

import io
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from checkpoint_cases import (
    assert_equal,
    build_backbone,
    build_classifier,
    features,
    snapshot,
)
from helpers import golden_files, published_weights
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from weights_server import checkpoint, kept

from hybrid_backbones.checkpoints import (
    PUBLISHED,
    PublishedCheckpoint,
    commands,
    guard_loads,
    load_published,
    read_state_dict,
)
from hybrid_backbones.checkpoints.fetch import ADDRESS, describe, fetch

NAME = "acmix_resnet26_test"


@pytest.fixture
def publish(monkeypatch):
    """Function that publishes addresses under `NAME`."""
    row = PublishedCheckpoint(
        *("imagenet_acmix_r26", {}, (), None, None, "MIT", "top-1 77.8"), dead=False, notes=""
    )

    def add(*addresses, **settings):
        monkeypatch.setitem(PUBLISHED, NAME, replace(row, addresses=addresses, **settings))

    return add


@pytest.fixture
def named(saved, server, cache, publish):
    """The name of a checkpoint with published names, as its training script writes it."""
    content = saved.read_bytes()
    url = server.add("/model_best.pth.tar", content)
    publish(url, size=len(content), sha256=sha256(content).hexdigest())
    return NAME


def test_each_row_names_a_config_and_addresses_that_can_be_fetched(repository):
    for name, record in PUBLISHED.items():
        assert (repository / "configs" / f"{record.config}.py").is_file(), name
        assert record.addresses, name
        assert all(map(ADDRESS.match, record.addresses)), name
        assert record.sha256 is None or (len(record.sha256) == 64 and record.size), name
    assert any(record.dead for record in PUBLISHED.values())


WITH_OPTIONS = {
    (record.config, *record.options.items()): record
    for record in PUBLISHED.values()
    if record.options
}


@pytest.mark.parametrize("record", WITH_OPTIONS.values(), ids=map(str, WITH_OPTIONS))
def test_options_of_a_row_make_a_model_of_its_config(record, repository):
    cfg = Config.fromfile(repository / "configs" / f"{record.config}.py")
    cfg.merge_from_dict(dict(record.options))
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert model.head.fc.in_features == model.backbone.out_channels[-1]


def test_no_address_is_of_two_checkpoints():
    addresses = [address for record in PUBLISHED.values() for address in record.addresses]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.upstream
def test_a_name_loads_into_a_backbone(named, weights):
    backbone = build_backbone()
    load_published(backbone, named)
    assert_equal(backbone.state_dict(), features(weights))


def test_a_name_of_the_table_loads_into_the_model_of_its_config(hub, repository):
    ((_, golden),) = golden_files("uniformer_small_plus.json")
    published, file = published_weights(golden), io.BytesIO()
    torch.save(dict(model=published), file)
    hub("Sense-X/uniformer_image", "uniformer_small_plus_in1k.pth", file.getvalue())
    record = PUBLISHED["uniformer_small_plus_in1k"]
    cfg = Config.fromfile(repository / "configs" / f"{record.config}.py")
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(cfg.model)
    report = load_published(model, "uniformer_small_plus_in1k")
    assert len(report.loaded) == len(published)
    assert torch.equal(model.head.fc.weight, published["head.weight"])


@pytest.mark.upstream
def test_a_name_initialises_a_backbone(named, weights):
    backbone = build_backbone(init_cfg=dict(type="Published", checkpoint=named))
    backbone.init_weights()
    assert_equal(backbone.state_dict(), features(weights))


@pytest.mark.upstream
def test_a_name_is_known_to_the_hosts_loader_in_our_commands(named, weights):
    """`load_from` and `init_cfg=dict(type='Pretrained')` call it."""
    with guard_loads():
        content = CheckpointLoader.load_checkpoint(named, "cpu")
    assert_equal(content["state_dict"], {f"module.{k}": x for k, x in weights.items()})


@pytest.mark.upstream
@pytest.mark.parametrize(
    "address", ["swiftformer_xs_first_release", "hf-hub:MBZUAI/swiftformer-xs"]
)
def test_published_names_and_the_hub_are_known_to_the_hosts_loader_everywhere(address, hub):
    hub("MBZUAI/swiftformer-xs", "pytorch_model.bin", checkpoint(3))
    assert CheckpointLoader.load_checkpoint(address)["x"][0] == 3
    with guard_loads():
        assert CheckpointLoader.load_checkpoint(address)["x"][0] == 3


@pytest.mark.upstream
def test_in_our_commands_the_host_tells_addresses_that_end_alike_apart(server, cache):
    urls = [server.add(f"/{n}/a.pth", checkpoint(n)) for n in (1, 2)]
    with guard_loads():
        found = [CheckpointLoader.load_checkpoint(url)["x"][0].item() for url in urls]
    assert found == [1, 2]


def test_a_name_counts_before_a_file_in_the_current_folder(named, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(checkpoint())
    assert set(read_state_dict(NAME)) == set(weights)
    assert set(read_state_dict(f"./{NAME}")) == {"x"}


def test_the_licence_is_shown_at_the_first_download_alone(named, saved, messages):
    fetch(named)
    (text,) = (text for _, text in messages if "licence" in text)
    assert text.endswith("model_best.pth.tar: " + describe(saved) + "; licence of the weights: MIT")
    messages.clear()
    fetch(named)
    assert messages == []


def test_addresses_are_tried_in_order(server, cache, publish, messages):
    good = server.add("/good.pth", checkpoint(3))
    absent, page = f"{server.url}/absent.pth", server.add("/page.pth", b"<html>")
    publish(absent, page, good, server.add("/other.pth", checkpoint(4)))
    for _ in range(2):
        assert read_state_dict(NAME)["x"][0] == 3
    assert [path for _, path, _ in server.asked] == ["/absent.pth", "/page.pth", "/good.pth"]
    warnings = [text for level, text in messages if level == "WARNING"]
    assert [text.split("'")[1] for text in warnings] == [absent, page]


def test_a_copy_that_is_not_the_published_file_is_not_used(server, cache, publish):
    content = checkpoint(3)
    publish(
        server.add("/other.pth", checkpoint(4)),
        server.add("/longer.pth", checkpoint(4, size=9)),
        server.add("/same.pth", content),
        size=len(content),
        sha256=sha256(content).hexdigest(),
    )
    assert read_state_dict(NAME)["x"][0] == 3
    assert [path.name for path in kept(cache)] == ["same.pth"]


# what the address serves, and what the error says of it
BAD_FILES = {
    "absent": (None, {}, "404"),
    "another hash": (
        checkpoint(),
        dict(sha256="0" * 64),
        rf"SHA-256 \w{{64}} instead of {'0' * 64}",
    ),
    "another size": (checkpoint(), dict(size=5), r"\d+ bytes instead of 5"),
    "web page": (b"<html>", {}, "web page"),
    "dead": (None, dict(dead=True, notes="since May"), r"are dead \(since May\).*give its path"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_name_without_a_good_file_changes_nothing(kind, server, cache, publish):
    content, settings, says = BAD_FILES[kind]
    if content is not None:
        server.add("/a.pth", content)
    publish(f"{server.url}/a.pth", **settings)
    backbone = build_backbone()
    before = snapshot(backbone)
    with pytest.raises(ValueError, match=rf"{NAME}.*{says}") as caught:
        load_published(backbone, NAME)
    assert "\n" not in str(caught.value)
    assert_equal(backbone.state_dict(), before)
    assert kept(cache) == []


def test_a_checkpoint_of_another_size_is_refused_and_changes_nothing(named):
    backbone = build_backbone(hybrid_stages=(False,) * 4)
    before = snapshot(backbone)
    with pytest.raises(ValueError, match=r"does not fit ACmixResNet, nothing was loaded"):
        load_published(backbone, named)
    assert_equal(backbone.state_dict(), before)
    with pytest.raises(ValueError, match=r"of another shape: head\.fc"):
        load_published(build_classifier(head_channels=10), named)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("unifomer_small_in1k", "uniformer_small_in1k"),
        ("weights/biformer_tny_in1k", "biformer_tiny"),
    ],
)
def test_a_wrong_name_lists_near_ones(given, near):
    with pytest.raises(ValueError, match=rf"no checkpoint at '{given}'.*did you mean.*{near}"):
        fetch(given)
    with guard_loads(), pytest.raises(ValueError, match=rf"'{given}'.*did you mean.*{near}"):
        CheckpointLoader.load_checkpoint(given)


def test_published_checkpoints_are_listed_by_a_part_of_their_names(named):
    assert len(commands.list_published()) == len(PUBLISHED)
    (line,) = commands.list_published("resnet26")
    assert line.split()[:2] == [NAME, "configs/imagenet_acmix_r26.py;"]
    assert "top-1 77.8; licence: MIT" in line
    names = [line.split()[0] for line in commands.list_published("swift*first")]
    assert names == [f"swiftformer_{size}_first_release" for size in ("xs", "s", "l3")]
    with pytest.raises(ValueError, match=r"no published name contains 'swft'"):
        commands.list_published("swft")


def test_getting_a_checkpoint_says_what_and_where_it_is(named, saved, server, cache):
    described, path = commands.get(named)[-2:]
    assert path == str(kept(cache)[0])
    assert described.endswith(f"SHA-256 {sha256(saved.read_bytes()).hexdigest()} (as expected)")
    url = server.add("/a.pth", checkpoint())
    assert "no size and hash are known" in commands.get(url)[0]


def test_a_published_file_is_recognised_under_any_name(named, saved):
    assert commands.verify(saved)[1:] == [f"{NAME}: size and hash are as expected"]


@pytest.mark.parametrize("name", [f"{NAME}.pth", "model_best.pth.tar"])
def test_a_file_that_is_not_what_its_name_says_is_refused(name, named, tmp_path):
    (tmp_path / name).write_bytes(checkpoint())
    with pytest.raises(ValueError, match=rf"{name} is not {NAME}: expected \d+ bytes, SHA-256"):
        commands.verify(tmp_path / name)


def test_a_file_of_unknown_hash_is_recognised_by_its_name(tmp_path):
    for name, says in [("biformer_tiny_in1k", "biformer_tiny_in1k, by its name"), ("a", "not by")]:
        path = tmp_path / f"{name}.pth"
        path.write_bytes(checkpoint())
        first, second = commands.verify(path)
        assert first.endswith(sha256(path.read_bytes()).hexdigest())
        assert second.startswith(says)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"cannot read .*a\.pth"):
        commands.verify(path)
    with pytest.raises(ValueError, match="no file at"):
        commands.verify(tmp_path)
