"""PaddlePaddle checkpoints: reading `.pdparams` files without Paddle, in PyTorch's layout.

Such a file is a pickle of a dict of numpy arrays. A pickle can call any function, so only the few
that arrays need are allowed here.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import REPLACED

SUFFIX = ".pdparams"
# entry that maps the other names to Paddle's internal names
NAME_TABLE = "StructuredToParameterName@@"
# Paddle's and PyTorch's names of the batch normalisation statistics
STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}
# allowed data types of arrays
KINDS = {np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "?")}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Replace `_codecs.encode`, with which pickles of protocol 2 create bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"array bytes must be encoded as latin1, got {encoding!r}")
    return text.encode("latin1")


# errors of reading a pickle that is broken or of another kind
BROKEN_PICKLE = (
    *(pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, MemoryError),
)
# before pickle protocol 3, builtins have another name
ALLOWED = {
    **REPLACED,
    "_codecs.encode": _latin1,
    "collections.OrderedDict": OrderedDict,
    **{
        f"{builtins}.{kind.__name__}": kind
        for builtins in ("builtins", "__builtin__")
        for kind in (tuple, bytes)
    },
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler that accepts only arrays, dicts and tuples."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the object that a file names.

        Raises:
            UnpicklingError: if the object is not in `ALLOWED`.
        """
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which arrays do not need; no code in it was executed"
            ) from None


def read_paddle(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a `.pdparams` file and convert them with :func:`from_paddle`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is of another kind, cut short, or names code, which is never run.
    """
    try:
        with open(path, "rb") as file:
            content = ArrayUnpickler(file).load()
    except FileNotFoundError:
        raise
    except BROKEN_PICKLE as error:
        raise ValueError(f"{str(path)!r} holds no Paddle weights: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{str(path)!r} holds no Paddle weights: expected a dict of arrays, "
            f"got {type(content).__name__}"
        )
    return from_paddle(content)


def is_paddle(content: Mapping[str, Any]) -> bool:
    """Return whether weights in memory are arrays with Paddle's names.

    A network without batch normalisation is not recognised, because its names do not differ.
    """
    return any(
        str(name).endswith("._mean") and not isinstance(value, Tensor)
        for name, value in content.items()
    )


def from_paddle(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert Paddle weights to PyTorch's names and layout.

    Batch normalisation statistics are renamed and get a batch counter; weights of linear layers are
    transposed from ``(in, out)`` to ``(out, in)``.

    Args:
        content: arrays by name, or pairs of an internal name and an array.

    Raises:
        ValueError: names an entry that is not an array of numbers.
    """
    state_dict = {}
    for name, value in content.items():
        if name == NAME_TABLE:
            continue
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        # bfloat16 is refused: Paddle writes it as uint16, which would load as integers
        if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in KINDS:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"expected numpy arrays of weights, as in Paddle; {name} is {kind}")
        *owner, entry = str(name).split(".")
        if array.ndim == 2 and entry == "weight":
            array = array.T
        # copy into the byte order and memory layout that PyTorch supports
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        state_dict[".".join([*owner, STATISTICS.get(entry, entry)])] = torch.from_numpy(array)
        if entry == "_variance":
            state_dict[".".join([*owner, "num_batches_tracked"])] = torch.tensor(0)
    return state_dict
