"""Checkpoints of PaddlePaddle: read `.pdparams` files without Paddle, and into PyTorch's layout.

Such a file is a pickle of a dict of numpy arrays. A pickle may name any function to be called, so
the few that arrays need are listed here, and a file that names another is refused.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SUFFIX = ".pdparams"
# an entry that names the others as Paddle does internally
NAME_TABLE = "StructuredToParameterName@@"
# where batch normalisation keeps its statistics
STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}
# of what arrays may be
KINDS = {np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "?")}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for `_codecs.encode`, which pickles of protocol 2 make bytes with."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes of an array may not be encoded as {encoding!r}")
    return text.encode("latin1")


# numpy 2 has moved what arrays are made with; builtins have another name before protocol 3
ALLOWED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _latin1,
    "collections.OrderedDict": OrderedDict,
    **{
        f"numpy.{core}.multiarray._reconstruct": np.zeros(0).__reduce__()[0]
        for core in ("core", "_core")
    },
    **{
        f"numpy.{core}.numeric._frombuffer": np.zeros(0).__reduce_ex__(5)[0]
        for core in ("core", "_core")
    },
    **{
        f"{builtins}.{kind.__name__}": kind
        for builtins in ("builtins", "__builtin__")
        for kind in (tuple, bytes)
    },
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickle arrays in dicts and tuples, and refuse all else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a file may name.

        Raises:
            UnpicklingError: for anything but `ALLOWED`.
        """
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which arrays do not need; nothing of it was executed"
            ) from None


def read_paddle(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a `.pdparams` file, named and laid out as :func:`from_paddle` does.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is of another kind, cut short, or names code; nothing of it is run.
    """
    try:
        with open(path, "rb") as file:
            content = ArrayUnpickler(file).load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a file of another kind fails in many ways
        raise ValueError(f"{str(path)!r} holds no weights of Paddle: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{str(path)!r} holds no weights of Paddle: expected a dict of arrays, "
            f"got {type(content).__name__}"
        )
    return from_paddle(content)


def is_paddle(content: Mapping[str, Any]) -> bool:
    """Tell whether weights in memory are arrays with the names that Paddle gives.

    A network without batch normalisation is not recognised: its names tell nothing of the layout.
    """
    return any(
        str(name).endswith("._mean") and not isinstance(value, Tensor)
        for name, value in content.items()
    )


def from_paddle(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename and transpose weights of Paddle as PyTorch has them.

    Statistics of batch normalisation get their name and a counter beside them, and the weights of
    linear layers, ``(in, out)`` in Paddle, become ``(out, in)``.

    Args:
        content: arrays by name, or pairs of an internal name and an array.

    Raises:
        ValueError: names what is no array of numbers.
    """
    state_dict = {}
    for name, value in content.items():
        if name == NAME_TABLE:
            continue
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        # bfloat16 is no weight here: Paddle writes it as uint16, which would load as integers
        if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in KINDS:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"expected numpy arrays of weights, as Paddle has; {name} is {kind}")
        *owner, entry = str(name).split(".")
        if array.ndim == 2 and entry == "weight":
            array = array.T
        # a copy in the byte order and the layout that PyTorch takes
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        state_dict[".".join([*owner, STATISTICS.get(entry, entry)])] = torch.from_numpy(array)
        if entry == "_variance":
            state_dict[".".join([*owner, "num_batches_tracked"])] = torch.tensor(0)
    return state_dict
