"""Numpy arrays in pickles, read without numpy's own unpickling.

A damaged or malicious file can make numpy take numbers for the addresses of objects, or change its
data types, which crashes the process. The classes here replace those that a pickle names.
"""

import pickle
from typing import Any

import numpy as np

# kinds of data types whose values are plain bytes: booleans and numbers
NUMBERS = "biufc"


class PickledDtype:
    """Replace `np.dtype`, whose state in a file may hold only the byte order here."""

    def __init__(self, name: str, *_: Any):
        if not isinstance(name, str):
            raise pickle.UnpicklingError(f"a data type must have a name, got {name!r:.60}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledNumber(PickledDtype):
    """Replace `np.dtype` where only numbers are allowed."""

    def __init__(self, name: str, *_: Any):
        super().__init__(name)
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(
                f"it holds an array of data type {name!r:.60}; expected numbers"
            )


class PickledArray(np.ndarray):
    """Replace the array that a pickle creates empty, whatever the arguments, and then fills.

    Values derived from it, and its own pickles, are of numpy's classes.
    """

    def __new__(cls, *_: Any) -> "PickledArray":
        """Create an empty array."""
        return np.empty(0).view(cls)

    def __setstate__(self, state: tuple) -> None:
        # a tensor may share the memory that a second state would free
        if self.size:
            raise pickle.UnpicklingError("an array may have only one state")
        _, shape, kind, is_fortran, data = state
        self.set_numbers(data, kind, shape, "F" if is_fortran else "C")

    def set_numbers(self, data: bytes, kind: PickledDtype, shape: tuple, order: str) -> None:
        """Set type, shape and values; other values than numbers are left out."""
        if kind.dtype.kind in NUMBERS:
            array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
        else:
            array = np.empty(0, kind.dtype)
        # numpy's own state of a valid array
        super().__setstate__(array.__reduce__()[2])

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False):
        """Return the result of an operation as plain arrays do."""
        return array[()] if return_scalar else array

    def __reduce__(self) -> tuple:
        return np.asarray(self).__reduce__()


def refuse_array(*_: Any) -> None:
    """Replace `np.ndarray`, which a pickle names but does not call."""
    raise pickle.UnpicklingError("it calls numpy.ndarray, which could point to any memory")


def empty_bytes() -> bytes:
    """Replace `bytes`, with which pickles of protocol 2 create the data of an empty array."""
    return b""


def pickled_array(*args: Any) -> PickledArray:
    """Replace the function of numpy with which pickles of protocol 5 create arrays."""
    array = PickledArray()
    array.set_numbers(*args)
    return array


def pickled_scalar(kind: PickledDtype, data: bytes) -> np.generic:
    """Replace the function of numpy that creates scalars."""
    return pickled_array(data, kind, (), "C")[()]


# by the names in a file; numpy 2 renamed `core` to `_core`
REPLACED = {
    "numpy.ndarray": refuse_array,
    "numpy.dtype": PickledDtype,
    **{f"numpy.{core}.multiarray._reconstruct": PickledArray for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": pickled_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": pickled_array for core in ("core", "_core")},
}
