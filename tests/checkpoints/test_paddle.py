"""Laws of reading PaddlePaddle's files: the published weights come out, and nothing is run."""

import contextlib
import functools
import io
import os
import pickle
from collections import OrderedDict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import FunctionType

import numpy as np
import pytest
import torch
from golden.fill import compare, make_input
from helpers import golden_files, published_weights
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


def small_arrays():
    """Make entries of each kind, no two with the same values."""
    shapes = {
        "bn.weight": (3,),
        "bn._mean": (3,),
        "bn._variance": (3,),
        "fc.weight": (2, 3),
        "fc.bias": (3,),
        "conv.weight": (2, 3, 1, 1),
        "attn.relative_position_bias_table": (9, 2),
    }
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def small_tensors():
    """Make what these are in PyTorch."""
    arrays = small_arrays()
    arrays["fc.weight"] = arrays["fc.weight"].T.copy()
    arrays["bn.running_mean"] = arrays.pop("bn._mean")
    arrays["bn.running_var"] = arrays.pop("bn._variance")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return tensors | {"bn.num_batches_tracked": torch.tensor(0)}


def assert_equal(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for name, value in expected.items():
        assert state_dict[name].dtype == value.dtype
        assert state_dict[name].is_contiguous()
        assert torch.equal(state_dict[name], value), name


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
    assert_equal(read_paddle(saved), expected)
    assert_equal(read_state_dict(saved), expected)


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


def pickled(content, core, protocol):
    """Pickle as a version of numpy does that has its parts under the name `core`."""

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            package, _, part = obj.__module__.rpartition(".")
            if package not in ("numpy.core", "numpy._core"):
                return super().save_global(obj, name)
            self.write(f"c{core}.{part}\n{obj.__name__}\n".encode())
            self.memoize(obj)

        dispatch = pickle._Pickler.dispatch | {FunctionType: save_global}

    file = io.BytesIO()
    Pickler(file, protocol).dump(content)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_files_of_every_protocol_and_numpy_are_read(tmp_path, protocol, core):
    path = tmp_path / "small.pdparams"
    content = pickled(small_arrays(), core, protocol)
    part = "numeric\n_frombuffer" if protocol == 5 else "multiarray\n_reconstruct"
    assert f"{core}.{part}".encode() in content
    path.write_bytes(content)
    assert_equal(read_paddle(path), small_tensors())


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda arrays: arrays, id="dict"),
        pytest.param(OrderedDict, id="OrderedDict"),
        pytest.param(lambda arrays: {k: (f"var_{k}", x) for k, x in arrays.items()}, id="pairs"),
        pytest.param(lambda arrays: {k: Pair(k, x) for k, x in arrays.items()}, id="called pairs"),
        pytest.param(lambda arrays: {k: np.asfortranarray(x) for k, x in arrays.items()}, id="F"),
        pytest.param(lambda arrays: {k: x.astype(">f4") for k, x in arrays.items()}, id=">f4"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_all_ways_to_hold_arrays_are_understood(tmp_path, wrap, protocol):
    path = tmp_path / "small.pdparams"
    path.write_bytes(pickle.dumps(wrap(small_arrays()), protocol=protocol))
    assert_equal(read_paddle(path), small_tensors())


class Pair:
    """Is pickled as Paddle pickles a tensor outside of a state dict: a call of `tuple`."""

    def __init__(self, name, array):
        self.content = name, array

    def __reduce__(self):
        return tuple, (self.content,)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "i8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)], ids=str)
def test_values_keep_their_type_and_shape(tmp_path, dtype, shape):
    path = tmp_path / "small.pdparams"
    array = np.ones(shape, dtype)
    path.write_bytes(pickle.dumps(dict(x=array), protocol=2))
    assert_equal(read_paddle(path), dict(x=torch.from_numpy(array)))


class Trap:
    """Calls a function where it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_code_in_a_file_is_named_and_not_run(tmp_path, protocol, first):
    path, mark = tmp_path / "trap.pdparams", tmp_path / "mark"
    trap, arrays = dict(trap=Trap(os.system, f"touch {mark}")), small_arrays()
    path.write_bytes(pickle.dumps(trap | arrays if first else arrays | trap, protocol=protocol))
    for read in (read_paddle, read_state_dict):
        with pytest.raises(ValueError, match=r"trap\.pdparams.* names (posix|nt)\.system"):
            read(path)
        assert not mark.exists()
    # the trap does work
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (eval, ("1",)),
        (getattr, (np.ndarray, "tofile")),
        (np.fromfile, ("absent",)),
        (np.load, ("absent",)),
        (pickle.loads, (b"N.",)),
        (type, ("X", (), {})),
        (print, ("printed",)),
    ],
    ids=lambda x: getattr(x, "__name__", "arguments"),
)
def test_no_other_function_may_be_named(tmp_path, capsys, function, args):
    path = tmp_path / "trap.pdparams"
    path.write_bytes(pickle.dumps(small_arrays() | dict(trap=Trap(function, *args))))
    with pytest.raises(ValueError, match=function.__name__):
        read_paddle(path)
    assert capsys.readouterr().out == ""


def test_bytes_may_not_be_decoded_by_any_codec(tmp_path):
    import _codecs

    path = tmp_path / "trap.pdparams"
    path.write_bytes(pickle.dumps(dict(x=Trap(_codecs.encode, "Uryyb", "rot13")), protocol=4))
    with pytest.raises(ValueError, match="rot13"):
        read_paddle(path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "short.pdparams"
    for protocol in (2, 4):
        content = pickle.dumps(small_arrays(), protocol=protocol)
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"short\.pdparams"):
                read_paddle(path)
            with pytest.raises(ValueError, match=r"short\.pdparams"):
                read_state_dict(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_damaged_byte_is_read_or_refused(tmp_path, protocol):
    path = tmp_path / "damaged.pdparams"
    content = pickle.dumps(small_arrays(), protocol=protocol)
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
        with contextlib.suppress(ValueError):
            read_paddle(path)


@pytest.mark.parametrize("flags", [1, 63])
def test_flags_of_a_data_type_are_ignored(tmp_path, flags):
    # numpy would take numbers for the addresses of objects
    path, kind = tmp_path / "flags.pdparams", b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
    content = pickle.dumps(dict(x=np.ones(3, "f4")), protocol=2)
    assert kind + bytes([0]) in content
    path.write_bytes(content.replace(kind + bytes([0]), kind + bytes([flags])))
    assert_equal(read_paddle(path), dict(x=torch.ones(3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "broken", id="empty"),
        pytest.param(b"<!DOCTYPE html><html>404</html>", "broken", id="web page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "broken", id="lfs pointer"),
        pytest.param(b"Q\xd8&\xba\x9b\xba\xfd\xccfB", "broken", id="noise"),
        pytest.param(b"cnumpy\ndtype\n(S'f4'\ntR(tb.", "broken", id="empty state"),
        pytest.param(b"}(Ne.", "broken", id="append to a dict"),
        pytest.param(
            pickle.dumps([1, 2]), "broken.*expected a dict of arrays, got list", id="list"
        ),
        pytest.param(pickle.dumps(dict(epoch=3)), "epoch is int", id="number"),
        pytest.param(pickle.dumps(dict(x=np.ones(2, "u2"))), "x is uint16", id="bfloat16"),
        pytest.param(pickle.dumps(dict(x=np.array(["a"]))), "x is <U1", id="text"),
        pytest.param(pickle.dumps(dict(x=np.array([None]))), "x is object", id="objects"),
        pytest.param(pickle.dumps(dict(opt=small_arrays())), "opt is dict", id="nested"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    path = tmp_path / "broken.pdparams"
    path.write_bytes(content)
    for read in (read_paddle, read_state_dict):
        with pytest.raises(ValueError, match=message):
            read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*absent\.pdparams"):
        read_state_dict(tmp_path / "absent.pdparams")


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
