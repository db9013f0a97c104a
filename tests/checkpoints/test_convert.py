"""Laws of converted checkpoints: the hosts' own code takes them, with classes and colours."""

import mmdet.apis
import mmpretrain.apis
import mmseg.apis
import pytest
import torch
from checkpoint_cases import assert_equal
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from published_models import CONFIGS, build_model, publish, randomise
from tool_runs import run_warm

from hybrid_backbones.checkpoints import PUBLISHED, load_published, read_checkpoint
from hybrid_backbones.checkpoints.convert import convert, recognise

pytestmark = pytest.mark.upstream
NAMES = ("maskrcnn_uniformer_xxs", "fpn_uniformer_xxs", "imagenet_uniformer_xxs")
CLASSES = dict(zip(NAMES, [("person", 80), ("wall", 150), ("tench", 1000)], strict=True))


def build(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    if cfg.default_scope != "mmpretrain":
        return build_model(name)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))


@pytest.fixture(scope="module", params=NAMES)
def converted(request, tmp_path_factory):
    """A config, a model, and the file that its published checkpoint was converted to."""
    name, folder = request.param, tmp_path_factory.mktemp("converted")
    source = randomise(build(name))
    torch.save(dict(state_dict=publish(source)), folder / "published.pth")
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    convert(cfg, folder / "published.pth", folder / "ours.pth")
    return name, source, folder / "ours.pth"


def test_all_entries_have_our_names_and_values(converted):
    name, source, path = converted
    model = build(name)
    load_checkpoint(model, str(path), map_location="cpu", strict=True)
    assert_equal(model.state_dict(), source.state_dict())
    again = build(name)
    load_published(again, path)
    assert_equal(again.state_dict(), source.state_dict())


def test_the_meta_data_name_the_classes_their_colours_and_the_config(converted):
    name, _, path = converted
    meta = read_checkpoint(path)["meta"]
    first, number = CLASSES[name]
    classes = meta["dataset_meta"]["classes"]
    assert (classes[0].split(",")[0], len(classes)) == (first, number)
    if name != NAMES[2]:
        assert len(meta["dataset_meta"]["palette"]) == number
    assert meta["config_name"] == name
    text = Config.fromstring(meta["cfg"], ".py")
    assert text.model == Config.fromfile(CONFIGS / f"{name}.py").model


def test_the_hosts_build_a_model_from_the_file(converted):
    name, source, path = converted
    config = str(CONFIGS / f"{name}.py")
    if name == NAMES[0]:
        model = mmdet.apis.init_detector(config, str(path), device="cpu")
        meta = model.dataset_meta
    elif name == NAMES[1]:
        model = mmseg.apis.init_model(config, str(path), device="cpu")
        meta = model.dataset_meta
    else:
        model = mmpretrain.apis.get_model(config, pretrained=str(path), device="cpu")
        meta = model._dataset_meta
    assert len(meta["classes"]) == CLASSES[name][1]
    expected = source.state_dict()
    for entry, value in model.state_dict().items():
        assert torch.equal(value, expected[entry]), entry


def test_an_inferencer_needs_the_file_alone(converted):
    name, source, path = converted
    if name == NAMES[0]:
        inferencer = mmdet.apis.DetInferencer(weights=str(path), device="cpu")
    elif name == NAMES[1]:
        inferencer = mmseg.apis.MMSegInferencer(None, str(path), device="cpu")
    else:  # mmpretrain's takes no config from a file
        config = str(CONFIGS / f"{name}.py")
        inferencer = mmpretrain.ImageClassificationInferencer(config, str(path), device="cpu")
    assert_equal(inferencer.model.state_dict(), source.state_dict())


def test_classes_of_the_checkpoint_count(tmp_path):
    source = build_model("fpn_uniformer_xxs", num_classes=2)
    content = dict(state_dict=publish(source), meta=dict(CLASSES=["a", "b"], PALETTE=[[1] * 3] * 2))
    torch.save(content, tmp_path / "own.pth")
    cfg = Config.fromfile(CONFIGS / "fpn_uniformer_xxs.py")
    cfg.model.decode_head.num_classes = 2
    convert(cfg, tmp_path / "own.pth", tmp_path / "out.pth")
    meta = read_checkpoint(tmp_path / "out.pth")["meta"]["dataset_meta"]
    assert meta == dict(classes=["a", "b"], palette=[[1] * 3] * 2)


def test_classes_are_also_found_in_a_wrapped_set_and_else_asked_for(tmp_path):
    name = "fpn_uniformer_xxs"
    torch.save(dict(state_dict=publish(build_model(name))), tmp_path / "published.pth")
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    loader = cfg.test_dataloader
    loader.dataset = dict(type="ConcatDataset", datasets=[loader.dataset] * 2)
    convert(cfg, tmp_path / "published.pth", tmp_path / "ours.pth")
    classes = read_checkpoint(tmp_path / "ours.pth")["meta"]["dataset_meta"]["classes"]
    assert (classes[0], len(classes)) == CLASSES[name]
    cfg.pop("test_dataloader")
    with pytest.raises(ValueError, match=r"xxs\.py does not set test_dataloader\.dataset"):
        convert(cfg, tmp_path / "published.pth", tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()


def test_files_are_recognised_by_hash_or_name(tmp_path):
    name = "fpn_uniformer_xxs"
    assert recognise(name) is PUBLISHED[name]
    (tmp_path / f"{name}.pth").write_bytes(b"1")
    assert recognise(tmp_path / f"{name}.pth") is PUBLISHED[name]
    (tmp_path / "other.pth").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"no published checkpoint.*--config"):
        recognise(tmp_path / "other.pth")


def test_nothing_is_overwritten_and_nothing_is_left_where_it_does_not_fit(tmp_path):
    cfg = Config.fromfile(CONFIGS / "fpn_uniformer_xxs.py")
    given = dict(state_dict={"backbone.x": torch.zeros(1), "decode_head.y": torch.zeros(1)})
    with pytest.raises(ValueError, match="does not fit EncoderDecoder"):
        convert(cfg, given, tmp_path / "out.pth")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.pth").write_text("kept")
    with pytest.raises(ValueError, match="exists, and is not overwritten"):
        convert(cfg, given, tmp_path / "out.pth")
    assert (tmp_path / "out.pth").read_text() == "kept"


@pytest.mark.slow
def test_the_command_converts_a_file_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "fpn_uniformer_xxs.pth"
    torch.save(dict(state_dict=publish(build_model(path.stem))), path)
    code, out, err = run_warm("tools/weights.py", "convert", path, tmp_path / "new/ours.pth")
    assert code == 0, err
    assert f"wrote {tmp_path}/new/ours.pth, a checkpoint of " in out.splitlines()[-1]
    assert (tmp_path / "new/ours.pth").is_file()
    for arguments, says in (
        ((path, tmp_path / "new/ours.pth"), "is not overwritten"),
        ((tmp_path / "new/ours.pth", tmp_path / "b.pth"), "no published checkpoint"),
        ((path, tmp_path / "b.pth", "--config", "configs/none.py"), "no config at configs/none.py"),
        ((path, tmp_path / "b.pth", "--config", "configs/fpn_uniformer_xs.py"), "does not fit"),
        ((path, path / "b.pth"), "cannot write"),
    ):
        code, _, err = run_warm("tools/weights.py", "convert", *arguments)
        assert code == 1
        assert says in err.splitlines()[-1]
        assert not (tmp_path / "b.pth").exists()
