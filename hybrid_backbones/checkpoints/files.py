"""Files of weights in all formats, read without running code in them and with checks for damage.

A PyTorch checkpoint is a pickle, which can call any function. Only those that weights and
mmengine's log need are allowed here.
"""

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file

from .arrays import REPLACED, PickledNumber, empty_bytes
from .paddle import BROKEN_PICKLE, SUFFIX, read_paddle

# how web pages begin, which servers send in place of files
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<[!?A-Za-z]")
# whether code in checkpoints is run: what the innermost `guard_loads` of this thread says, and what
# all that are in force say, for threads without one, such as a server's
RUN_CODE: ContextVar[bool | None] = ContextVar("RUN_CODE", default=None)
GUARDS: list[bool] = []
# errors of the zip, pickle and tensor readers for files that are broken or of another kind
UNREADABLE = (
    *BROKEN_PICKLE,
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, AssertionError),
)

# the original, since `guard_loads` replaces `torch.load`
_torch_load = torch.load


class PickledLog(HistoryBuffer):
    """Replace mmengine's log, whose state in a file could redefine the statistics of all logs."""

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({k: v for k, v in state.items() if k != "statistics_methods"})
        self.__class__ = HistoryBuffer


# what mmengine's checkpoints look up with `getattr`: statistics of the log, the shape of a schedule
LOOKUPS = {
    **dict.fromkeys((HistoryBuffer, PickledLog), ("current", "max", "mean", "min")),
    OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
}


def _look_up(owner: type, name: str) -> Any:
    """Replace `getattr` by a look-up of the few functions that mmengine's checkpoints name."""
    if name not in LOOKUPS.get(owner, ()):
        raise pickle.UnpicklingError(f"a checkpoint may not look up {name!r} of {owner!r}")
    return getattr(owner, name)


# mmengine's checkpoints also hold its log, as numpy arrays and scalars
ALLOWED = {
    "mmengine.logging.history_buffer.HistoryBuffer": PickledLog,
    "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler": OneCycleParamScheduler,
    "builtins.getattr": _look_up,
    "builtins.bytes": empty_bytes,
    **REPLACED,
    "numpy.dtype": PickledNumber,
}
SAFE_GLOBALS: list[Callable | tuple[Callable, str]] = [
    (value, name) for name, value in ALLOWED.items()
]
# for reading without `guard_loads`, with versions of mmengine that call `torch.load` directly: what
# others allow themselves. Ours would clash with theirs, as a name has one entry by chance
torch.serialization.add_safe_globals(
    [
        HistoryBuffer,
        (_look_up, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        np.zeros(0).__reduce_ex__(2)[0],  # type: ignore[list-item]  # a function, not text
        np.float64(0).__reduce_ex__(2)[0],  # type: ignore[list-item]
        *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?")},
    ]
)


def runs_code() -> bool:
    """Return whether code in checkpoints is run in this thread."""
    own = RUN_CODE.get()
    return bool(GUARDS) and all(GUARDS) if own is None else own


def read_weights(path: str | Path, map_location: Any = None) -> Any:
    """Read a PyTorch, safetensors or Paddle file, without running code in it.

    Args:
        map_location: as in `torch.load`; safetensors and Paddle files are read on the CPU.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a checkpoint, is damaged, or needs code to be run.
    """
    start = b""
    # what cannot be opened is reported by the readers
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(64)
    if WEB_PAGE.match(start):
        raise ValueError(f"cannot read {str(path)!r} as a checkpoint: it is a web page (HTML)")
    if str(path).endswith(SUFFIX):
        return read_paddle(path)
    # a safetensors file starts with the length of a JSON header
    if not (start[8:9] == b"{" or (start and str(path).endswith(".safetensors"))):
        return read_file(path, map_location)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"cannot read {str(path)!r} as a file of safetensors: {error}") from error


def read_file(file: str | Path | BinaryIO, map_location: Any = None) -> Any:
    """Read a file that `torch.save` has written, without running code in it.

    Unlike `torch.load`, this verifies the checksums of the file, which only the format from before
    PyTorch 1.6 lacks.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a checkpoint, is damaged, or needs code to be run.
    """
    try:
        _require_checksums(file)
        with _allow_safe_globals():
            return _torch_load(file, map_location, weights_only=not runs_code())
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        name = "a stream" if hasattr(file, "read") else repr(str(file))
        raise ValueError(
            f"cannot read {name} as a checkpoint of weights: {_reason(error)}"
        ) from error


def _require_checksums(file: str | Path | BinaryIO) -> None:
    """Verify the checksum of each record, in about half the time of reading the file."""
    with open(file, "rb") if isinstance(file, str | PathLike) else nullcontext(file) as stream:
        start = stream.tell()
        is_zip = stream.read(4) == b"PK\x03\x04"
        stream.seek(start)
        if is_zip:
            with zipfile.ZipFile(stream) as archive:
                # PyTorch can be configured to write no checksums, which are then zero
                if any(record.CRC for record in archive.infolist()) and (bad := archive.testzip()):
                    raise zipfile.BadZipFile(f"the checksum of its record {bad!r} is wrong")
            stream.seek(start)


@contextmanager
def _allow_safe_globals() -> Iterator[None]:
    """Allow our safe globals and the user's, but not what ours replace, which mmengine also adds.

    After reading, mmengine also removes some of ours.
    """
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(
        [*SAFE_GLOBALS, *(entry for entry in allowed if not _is_replaced(entry))]
    )
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _is_replaced(entry: Any) -> bool:
    """Return whether a file must not reach an entry of PyTorch's safe globals."""
    value, name = (
        entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
    )
    # a state in a file would change numpy's data types themselves
    return name in ALLOWED or (isinstance(value, type) and issubclass(value, np.dtype))


def _reason(error: BaseException) -> str:
    """Return why a file cannot be read, without PyTorch's advice to run the code in it."""
    if isinstance(error, EOFError):
        return "it is empty or cut short"
    if isinstance(error, zipfile.BadZipFile):
        return f"it is damaged or cut short ({error})"
    if "TorchScript" in str(error):
        return "it is a TorchScript program; expected a file of torch.save(model.state_dict())"
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"it names {named[1]}, which weights do not need and which may run code; no code in it "
            "was executed. Get a file of the weights alone, which torch.save(model.state_dict()) "
            "writes"
        )
    if isinstance(error, pickle.UnpicklingError):
        # PyTorch wraps the reason in its advice
        error = error.__context__ or error
    return (str(error).splitlines() or [type(error).__name__])[0]
