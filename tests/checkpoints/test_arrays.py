"""Laws of arrays and logs in checkpoints: their values are read, and nothing else is changed."""

import pickle
import struct

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from hybrid_backbones.checkpoints import guard_loads, read_checkpoint
from hybrid_backbones.checkpoints.arrays import PickledArray, PickledDtype
from hybrid_backbones.checkpoints.paddle import read_paddle

pytestmark = pytest.mark.upstream

RECONSTRUCT, _, ARRAY_STATE = np.ones(1).__reduce__()
DTYPE_STATE = 3, "<", None, None, None, -1, -1
# an object that outlives wrong counts of its references
ADDRESS = struct.pack("P", id(None))


class Pickled:
    """Is pickled as a call, and a state of what it returns."""

    def __init__(self, function, args, *state):
        self.call = function, args, *state

    def __reduce__(self):
        return self.call


def kind(name, flags=0):
    return Pickled(np.dtype, (name, False, True), (*DTYPE_STATE, flags))


def array(state):
    return Pickled(RECONSTRUCT, (np.ndarray, (0,), b"b"), state)


def read_pth(folder, content):
    torch.save(dict(x=content), folder / "some.pth")
    return read_checkpoint(folder / "some.pth")["x"]


def read_by_the_host(folder, content):
    torch.save(dict(x=content), folder / "some.pth")
    with guard_loads():
        return CheckpointLoader.load_checkpoint(str(folder / "some.pth"))["x"]


def read_pdparams(folder, content):
    (folder / "some.pdparams").write_bytes(pickle.dumps(dict(x=content), protocol=2))
    return read_paddle(folder / "some.pdparams")["x"]


# without a state, which numpy would set to what it is
OBJECTS = Pickled(np.dtype, ("O",))
each_reader = pytest.mark.parametrize("read", [read_pth, read_by_the_host, read_pdparams])


@each_reader
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(Pickled(np.ndarray, ((1,), OBJECTS, ADDRESS)), id="call of objects"),
        pytest.param(Pickled(np.ndarray, ((1,), kind("f8"), ADDRESS)), id="call of numbers"),
        pytest.param(array((1, (1,), OBJECTS, False, [None])), id="state of new objects"),
        pytest.param(array((1, (1,), np.dtype("O"), False, [None])), id="state of objects"),
        pytest.param(array((1, (1,), np.dtype("O"), False, ADDRESS)), id="state of addresses"),
        pytest.param(array((1, (1,), np.dtype("i8,O"), False, 2 * ADDRESS)), id="records"),
        pytest.param(array((1, (1,), np.dtype("U2"), False, ADDRESS)), id="text"),
        pytest.param(array((1, (9,), np.dtype("f8"), False, ADDRESS)), id="too short"),
        pytest.param(array((1, (2**40, 2**40), np.dtype("f8"), False, ADDRESS)), id="enormous"),
        pytest.param(array((1, (1,), np.dtype("f8"), False, [1.0])), id="list"),
        pytest.param(Pickled(type(np.dtype("f8")), (), (*DTYPE_STATE, 1)), id="type"),
    ],
)
def test_only_numbers_of_their_length_are_read(tmp_path, read, content):
    with pytest.raises(ValueError, match=r"some\.p|expected numpy arrays of weights"):
        read(tmp_path, content)


@pytest.mark.parametrize("read", [read_pth, read_by_the_host])
@pytest.mark.parametrize("flags", [1, 63])
def test_flags_of_a_data_type_are_ignored(tmp_path, read, flags):
    data = struct.pack("d", 1.5)
    found = read(tmp_path, array((1, (1,), kind("f8", flags), False, data)))
    assert (found.tolist(), found.dtype.flags) == ([1.5], 0)


def test_a_second_state_cannot_free_what_a_tensor_shares():
    array, state = PickledArray(), (1, (1,), PickledDtype("f8"), False, bytes(8))
    array.__setstate__(state)
    with pytest.raises(pickle.UnpicklingError, match="one state"):
        array.__setstate__(state)


VALUES = [
    np.arange(6.0).reshape(2, 3),
    np.arange(3, dtype=">i4"),
    np.ones((2, 0), bool),
    np.ones(()),
]


@pytest.mark.parametrize("read", [read_pth, read_by_the_host])
@pytest.mark.parametrize("value", [*VALUES, np.asfortranarray(VALUES[0])], ids=str)
def test_arrays_of_numbers_are_read(tmp_path, read, value):
    found = read(tmp_path, value)
    assert (found.dtype, found.shape) == (value.dtype.newbyteorder("="), value.shape)
    np.testing.assert_array_equal(found, value)
    assert type(found.sum()) is type(value.sum())
    # others read it without this package
    assert b"hybrid_backbones" not in pickle.dumps(found)


@pytest.mark.parametrize("read", [read_pth, read_by_the_host])
@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1", "?"])
def test_scalars_are_read(tmp_path, read, kind):
    value = np.dtype(kind).type(1)
    found = read(tmp_path, value)
    assert (found, type(found)) == (value, type(value))


def test_files_of_numpy_1_are_read(tmp_path):
    content = dict(log=HistoryBuffer([1.0, 2.0], [1, 1]), best=np.float64(0.5))
    path = tmp_path / "old.pth"
    # the format from before PyTorch 1.6 has no lengths that the other names would change
    torch.save(content, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert b"numpy._core.multiarray\nscalar" in written
    path.write_bytes(written.replace(b"numpy._core.", b"numpy.core."))
    found = read_checkpoint(path)
    assert found["log"].data[0].tolist() == [1.0, 2.0]
    assert (found["best"], type(found["best"])) == (0.5, np.float64)


def test_a_log_cannot_redefine_the_statistics_of_others(tmp_path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    log._statistics_methods = dict(mean=HistoryBuffer.max)
    assert type(read_pth(tmp_path, log)) is HistoryBuffer
    assert HistoryBuffer([1.0, 2.0], [1, 1]).statistics("mean") == 1.5
