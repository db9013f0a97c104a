"""Laws of published PaddlePaddle checkpoints: networks take them, and compute what they should."""

import functools
import pickle
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from golden.fill import compare, make_input
from helpers import assert_same_tensors, golden_files, published_weights
from mmpretrain.models import ImageClassifier

import hybrid_backbones.heads  # noqa: F401, registers ProjectedPooling
from hybrid_backbones.backbones import MixFormer
from hybrid_backbones.checkpoints import load_published, read_state_dict
from hybrid_backbones.checkpoints.paddle import read_paddle

((_, GOLDEN),) = golden_files("mixformer_b0.json")
RENAMED = {"running_mean": "_mean", "running_var": "_variance"}


@pytest.fixture(scope="module")
def weights():
    """The published weights in PyTorch's layout; treat them as read-only."""
    return published_weights(GOLDEN)


@pytest.fixture(scope="module")
def arrays(weights):
    """The same in Paddle's: its names and its order of dimensions, those of the golden file."""
    arrays = {}
    for name, value in weights.items():
        owner, entry = name.rsplit(".", 1)
        if entry != "num_batches_tracked":
            value = value.numpy()
            # all weights with two dimensions are of linear layers
            array = value.T.copy() if entry == "weight" and value.ndim == 2 else value
            arrays[f"{owner}.{RENAMED.get(entry, entry)}"] = array
    entries = [[name, list(x.shape), str(x.dtype)] for name, x in arrays.items()]
    assert entries == GOLDEN["paddle_entries"]
    return arrays


@pytest.fixture(scope="module")
def saved(arrays, tmp_path_factory):
    """A file as `paddle.save` writes it."""
    path = tmp_path_factory.mktemp("checkpoints") / "MixFormer_B0_pretrained.pdparams"
    table = {name: f"parameter_{i}" for i, name in enumerate(arrays)}
    content = arrays | {"StructuredToParameterName@@": table}
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def build_classifier(**kwargs):
    return ImageClassifier(
        backbone=dict(type="MixFormer", arch="b0", out_norm="final", out_indices=(3,)),
        neck=dict(type="ProjectedPooling", in_channels=192, out_channels=1280),
        head=dict(type="LinearClsHead", num_classes=1000, in_channels=1280),
        **kwargs,
    ).eval()


def assert_published_logits(classifier):
    case = GOLDEN["cases"][0]
    with torch.no_grad():
        logits = classifier(make_input(case["shape"], case["seed"]), mode="tensor")
    compare([logits], [case["logits"]])


def test_reading_gives_the_published_weights_in_pytorchs_layout(saved, weights):
    expected = {
        name: torch.zeros_like(x) if name.endswith("num_batches_tracked") else x
        for name, x in weights.items()
    }
    assert_same_tensors(read_paddle(saved), expected)
    assert_same_tensors(read_state_dict(saved), expected)


def test_a_classifier_takes_the_file_and_gives_the_published_logits(saved):
    classifier = build_classifier()
    assert not load_published(classifier, saved).fresh
    assert_published_logits(classifier)


def test_a_dense_backbone_takes_the_file_and_gives_the_published_features(saved):
    backbone = MixFormer("b0").eval()
    report = load_published(backbone, str(saved))
    assert {name.split(".")[0] for name in report.fresh} == {"norms"}
    plain = MixFormer("b0", out_norm="none").eval()
    load_published(plain, saved)
    case = GOLDEN["cases"][1]
    images = make_input(case["shape"], case["seed"])
    with torch.no_grad():
        features = plain(images)
        compare(features, case["features"])
        outs = backbone(images)
    for x, out, norm in zip(features, outs, backbone.norms.values(), strict=True):
        torch.testing.assert_close(out, norm(x))


def test_init_cfg_takes_the_file(saved, weights):
    init_cfg = dict(type="Published", checkpoint=str(saved))
    classifier = build_classifier(init_cfg=init_cfg)
    classifier.init_weights()
    assert_published_logits(classifier)
    backbone = MixFormer("b0", init_cfg=init_cfg)
    backbone.init_weights()
    name = "attn.qkv.weight"
    own, published = f"stages.2.3.{name}", f"layers.2.blocks.3.{name}"
    assert torch.equal(backbone.state_dict()[own], weights[published])


def test_arrays_in_memory_are_taken_by_their_names(arrays, weights):
    classifier = build_classifier()
    load_published(classifier, arrays)
    assert torch.equal(classifier.state_dict()["head.fc.weight"], weights["head.weight"])


def test_arrays_with_pytorchs_names_are_refused(arrays):
    # transposed or not? nothing tells
    named = {name.replace("._mean", ".running_mean"): x for name, x in arrays.items()}
    with pytest.raises(ValueError, match="no weights in the checkpoint"):
        read_state_dict(named)


def test_weights_of_another_size_are_refused_by_name(saved):
    with pytest.raises(ValueError, match=r"does not fit MixFormer.*790 of another shape: stages"):
        load_published(MixFormer("b1"), saved)


@pytest.fixture
def server(saved):
    """Serve the folder of the file; yields its address and the list of requests."""
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, template, *args):
            requests.append(template % args)

    handler = functools.partial(Handler, directory=saved.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()


def test_a_url_is_downloaded_once(server, saved, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    address, requests = server
    for _ in range(2):
        state_dict = read_state_dict(f"{address}/{saved.name}?version=1")
        assert torch.equal(state_dict["head.weight"], weights["head.weight"])
    assert len(requests) == 1
    assert list(tmp_path.rglob(saved.name))
