"""Reading of checkpoint files, without running code in them and with checks for damage.

A checkpoint is a pickle, which can call any function. Only those that weights and mmengine's log
need are allowed here.
"""

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from torch import Tensor

from .arrays import REPLACED, PickledNumber, empty_bytes
from .paddle import BROKEN_PICKLE, SUFFIX, from_paddle, is_paddle, read_paddle

# keys under which training scripts store the weights, in the order in which they are tried
STATE_DICT_KEYS = ("state_dict", "model")
# whether code in checkpoints is run; only `guard_loads` sets it
RUN_CODE: ContextVar[bool] = ContextVar("RUN_CODE", default=False)
# eight digits of a SHA-256 at the end of a file name; digits alone are rather a date
CHECKSUM = re.compile(r"-(?!\d{8}\.)([0-9a-f]{8})\.\w+$")
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


def read_state_dict(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of any training script.

    Args:
        checkpoint: path, http(s) URL or loaded dict of the weights, or of a dict that holds them
            under ``state_dict`` or ``model``. Paddle's ``.pdparams`` and arrays are converted.

    Raises:
        ValueError: if the file does not exist, is not a checkpoint or holds no weights.
    """
    content = read_checkpoint(checkpoint)
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    content = content if isinstance(content, Mapping) else {type(content).__name__: content}
    if is_paddle(content):
        content = from_paddle(content)
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ValueError(
            "no weights in the checkpoint: expected named tensors, bare or under one of "
            f"{STATE_DICT_KEYS}, got other entries {others[:8]}"
        )
    for name, value in content.items():
        if unusable := _unusable(value):
            raise ValueError(
                f"{name} of the checkpoint is {unusable}: expected dense tensors, as in "
                "model.state_dict()"
            )
    state_dict = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): x for name, x in state_dict.items()}
    return state_dict


def read_checkpoint(checkpoint: str | Path | Mapping) -> Mapping:
    """Read the whole content of a checkpoint file or URL, without running code in it.

    Content that is already loaded is returned as it is.

    Raises:
        ValueError: if the file does not exist, is not a checkpoint or is damaged.
    """
    if not isinstance(checkpoint, str | Path):
        return checkpoint
    path = str(checkpoint)
    downloaded = path.startswith(("http://", "https://"))
    path = _download(path) if downloaded else path
    try:
        return read_paddle(path) if path.endswith(SUFFIX) else read_file(path, "cpu")
    except FileNotFoundError as error:
        raise ValueError(f"no checkpoint at {path!r}: check the path") from error
    except ValueError as error:
        advice = "; delete it if the download was cut short" if downloaded else ""
        raise ValueError(f"{error}{advice}") from error


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
            return _torch_load(file, map_location, weights_only=not RUN_CODE.get())
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        name = "a stream" if hasattr(file, "read") else repr(str(file))
        raise ValueError(
            f"cannot read {name} as a checkpoint of weights: {_reason(error)}"
        ) from error


def dataset_meta(checkpoint: str | Path | Mapping) -> dict | None:
    """Return the description of the training data that a checkpoint holds.

    Returns:
        a dict with names under `classes`, and for segmentation colours under `palette`; None if
        the checkpoint holds none, as published weights do.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    found = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    classes = found.get("classes")
    is_named = isinstance(classes, list | tuple) and all(isinstance(x, str) for x in classes)
    return dict(found) if classes and is_named else None


def _unusable(value: Tensor) -> str | None:
    """Return why a tensor cannot become an entry of a model, or None if it can."""
    if value.is_meta:
        return "a meta tensor, which has no values"
    if value.is_quantized:
        return f"a quantised tensor ({value.dtype})"
    if value.layout != torch.strided or value.is_nested:
        return f"a tensor of another layout ({value.layout})"
    return None


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


def _download(url: str) -> str:
    """Download a checkpoint into PyTorch's cache unless it is cached, and return its path.

    If the file name ends with the start of a checksum, as OpenMMLab's and torchvision's do, it is
    verified.
    """
    name = Path(urlparse(url).path).name
    # other files may have the same name
    folder = Path(torch.hub.get_dir()) / "checkpoints" / sha256(url.encode()).hexdigest()[:16]
    path, checksum = folder / name, CHECKSUM.search(name)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), checksum and checksum[1])
        except (OSError, RuntimeError) as error:
            raise ValueError(f"cannot download {url!r}: {error}") from error
    return str(path)
