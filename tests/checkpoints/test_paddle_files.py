"""Laws of reading PaddlePaddle's files: all that holds arrays is read, and nothing is run."""

import contextlib
import io
import os
import pickle
from collections import OrderedDict
from types import FunctionType

import numpy as np
import pytest
import torch
from helpers import assert_same_tensors

from hybrid_backbones.checkpoints import read_state_dict
from hybrid_backbones.checkpoints.paddle import read_paddle


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
    assert_same_tensors(read_paddle(path), small_tensors())


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
    assert_same_tensors(read_paddle(path), small_tensors())


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
    assert_same_tensors(read_paddle(path), dict(x=torch.from_numpy(array)))


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
    assert_same_tensors(read_paddle(path), dict(x=torch.ones(3)))


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
