"""Errors of libraries that mistakes of a user cause, and what to do about each.

The explanations read the variables of the library's own calls, which the traceback still has.
"""

import errno
import inspect
import re
import traceback
from collections.abc import Callable
from operator import attrgetter
from urllib.error import HTTPError

import torch
from mmengine.registry import OPTIMIZERS, Registry

from ..installation import install_command, missing_library
from ..suggestions import did_you_mean

# errors about files that a user can cause, by a wrong path, folder or URL
USERS_ERRORS: tuple[type[OSError], ...] = (FileNotFoundError, PermissionError, HTTPError)
USERS_ERRORS += (IsADirectoryError, NotADirectoryError, FileExistsError)
# what CUDA's libraries say beside `OutOfMemoryError` if the GPU's memory is full
GPU_IS_FULL = r"CUDA error: out of memory|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
# cuDNN, if it has no memory for any algorithm, or none for the dtype on this GPU
NO_ENGINE = r"unable to find an engine to execute this computation"
USE_LESS = (
    "lower train_dataloader.batch_size, add --amp, or set model.backbone.with_cp=True to recompute "
    "activations"
)


def _variables(error: Exception, name: str) -> dict:
    """Return the local variables of the innermost call that has one called `name`."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((f.f_locals for f in reversed(frames) if name in f.f_locals), {})


def _built(error: Exception) -> tuple[Callable | None, dict]:
    """Return the class that mmengine was building, and its arguments in the config."""
    # mmengine's names of the variable: for schedules with `convert_to_iter_based`, and for others
    for name in ("scheduler_cls", "obj_cls"):
        if build := _variables(error, name):
            return build[name], build.get("args", {})
    return None, {}


def _missing_library(error: ModuleNotFoundError, _: re.Match) -> str | None:
    """Explain that a library of OpenMMLab is not installed."""
    library = missing_library(error)
    return library and f"{library} is not installed: {install_command()}"


def _unknown_argument(error: Exception, match: re.Match) -> str | None:
    """Explain a setting that the class does not accept."""
    built, args = _built(error)
    if built is None or match[1] not in args:
        return None
    calls = map(attrgetter("__init__"), built.__mro__) if inspect.isclass(built) else [built]
    names = {name for call in calls for name in inspect.signature(call).parameters}
    near = did_you_mean(match[1], names - {match[1], "self", "args", "kwargs"})
    return f"the config gives {built.__name__} an unknown argument {match[1]!r}{near}"


def _missing_argument(error: Exception, match: re.Match) -> str | None:
    """Explain a required argument that the config does not set."""
    built, args = _built(error)
    kinds = inspect.getmro(built) if inspect.isclass(built) else ()
    # if the config sets the argument, a class fails to pass it to its base class, which is a bug
    is_unset = args.keys().isdisjoint(re.findall(r"'(\w+)'", match[2]))
    if built is None or match[1] not in {kind.__name__ for kind in kinds} or not is_unset:
        return None
    return f"the config does not set the required arguments of {built.__name__}: {match[2]}"


def _unknown_type(error: Exception, match: re.Match) -> str:
    """Explain a type that is in no registry."""
    build = _variables(error, "scheduler_type") or _variables(error, "obj_type")
    return _no_such_type(match[1], build.get("registry"))


def _unknown_optimizer(error: Exception, match: re.Match) -> str | None:
    """Explain an unknown optimizer, for which mmengine raises an unrelated error."""
    settings = _variables(error, "optimizer_cls").get("optimizer_cfg")
    return _no_such_type(settings["type"], OPTIMIZERS) if settings else None


def _no_such_type(name: str, registry: Registry | None) -> str:
    kind, names = getattr(registry, "name", "object"), set()
    while registry is not None:
        names |= registry.module_dict.keys()
        registry = registry.parent
    near = did_you_mean(name, names - {name})
    return (
        f"there is no {kind} called {name}{near} (correct the type in the "
        "config, or add the module that registers it to custom_imports)"
    )


def _refused_setting(error: Exception, match: re.Match) -> str | None:
    """Explain a setting that the constructor of a library's class refuses, or a method of it."""
    built, _ = _built(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # a refusal of ours is explained already, and a failed assertion of ours is a bug
    if built is None or not frames or built.__module__.startswith("hybrid_backbones"):
        return None
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    new = frames[-1].f_locals.get("self")
    in_constructor = any(
        frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is new for frame in frames
    )
    if new is None or not in_constructor or not re.match("raise |assert ", line):
        return None
    return f"{built.__name__} of the config: {str(error) or line}"


def _empty_set(error: Exception, match: re.Match) -> str | None:
    """Explain an empty dataset, which mmengine cannot serialise."""
    if all(call.name != "_serialize_data" for call in traceback.extract_tb(error.__traceback__)):
        return None
    dataset = _variables(error, "self")["self"]
    source = dataset.ann_file or dataset.data_root
    return (
        f"a data set of the config is empty, {type(dataset).__name__} of {source}: check its "
        "data_root, ann_file and filter_cfg"
    )


def _system_error(error: OSError, match: re.Match) -> str | None:
    """Return the operating system's message about a file, if the user can fix the problem."""
    is_users = isinstance(error, USERS_ERRORS) or error.errno in (errno.EROFS, errno.ENAMETOOLONG)
    return match[0] if is_users and error.filename is not None else None


ErrorKinds = type[Exception] | tuple[type[Exception], ...]
# errors of libraries that mistakes of a user cause: class of the error, pattern of its message, and
# line for the user, a template of `re.Match.expand` or a function that returns None for a bug
KNOWN: tuple[tuple[ErrorKinds, str, str | Callable[..., str | None]], ...] = (
    (
        AssertionError,
        r"number of subfolders \((\d+)\) doesn't match the number of specified classes \((\d+)\)",
        r"a set of images by class has \1 folders instead of \2: expected one for each class",
    ),
    (
        TypeError,
        r"DataLoader\.__init__\(\) got an unexpected keyword argument '(\w+)'",
        r"a dataloader of the config sets '\1', which PyTorch's DataLoader does not accept",
    ),
    (TypeError, r"\(\) got an unexpected keyword argument '(\w+)'", _unknown_argument),
    (
        TypeError,
        r"^NoneType takes no arguments$",
        'mmpretrain cannot be imported beside transformers 5: pip install "transformers<5"',
    ),
    (ModuleNotFoundError, r"^No module named", _missing_library),
    (
        ImportError,
        r"^Please run \"(pip install .+)\" to install (\w+)$",
        r"the config logs to \2, which is not installed: run `\1`, or leave it out of "
        "visualizer.vis_backends",
    ),
    (
        TypeError,
        r"(\w+)\.(?:__init__|build_iter_from_epoch)\(\) missing \d+ required .*arguments?: (.+)",
        _missing_argument,
    ),
    (KeyError, r"^(\S+) is not in the .+ registry", _unknown_type),
    (TypeError, r"^None is not a callable object$", _unknown_optimizer),
    (
        KeyError,
        r"Cannot find (\S+) in registry under scope name (\S+)",
        r"there is no \1 in the registry of \2: correct the type in the config",
    ),
    (
        RuntimeError,
        r"^Failed to get (\S+)$",
        r"cannot import \1: correct the type in the config",
    ),
    (
        ValueError,
        r"(train|val|test)_dataloader, (\w+), and (\w+) should be either all None",
        r"\1_dataloader, \2 and \3 of the config must all be set, or all be None",
    ),
    (
        ValueError,
        r"^(batch_size should be .*|(?:num_workers|prefetch_factor|persistent_workers) option .*)",
        r"a dataloader of the config: \1",
    ),
    (
        ValueError,
        r"^Invalid (?:learning rate|weight_decay|momentum|beta|epsilon|eps).*",
        r"optim_wrapper.optimizer of the config: \g<0>",
    ),
    (ValueError, r"^Seed must be between .*", r"randomness.seed of the config: \g<0>"),
    (ValueError, r"^need at least one array to concatenate$", _empty_set),
    (
        ValueError,
        r"Expected more than 1 value per channel when training",
        "batch normalisation needs more than one value per channel: raise "
        "train_dataloader.batch_size, or the image size",
    ),
    (torch.cuda.OutOfMemoryError, r"", f"the GPU's memory is full: {USE_LESS}"),
    (RuntimeError, GPU_IS_FULL, f"the GPU's memory is full: {USE_LESS}"),
    (
        RuntimeError,
        NO_ENGINE,
        "cuDNN cannot compute a convolution: either the GPU's memory is full, then "
        f"{USE_LESS}; or the GPU lacks this dtype, then use another one of --amp",
    ),
    (
        RuntimeError,
        r"invalid device ordinal",
        "a process has no GPU of its own: start as many processes as there are GPUs, which "
        "`hb doctor` lists",
    ),
    (
        RuntimeError,
        r"The NVIDIA driver on your system is too old \(found version (\d+)\)",
        r"the NVIDIA driver is too old for this PyTorch (version \1): update it, or install a "
        "PyTorch for an older CUDA",
    ),
    (
        RuntimeError,
        r"^Early stopping conditioned on metric `(\S+) is not available.* metrics \{(.+)\}, or",
        r"EarlyStoppingHook.monitor of the config is \1, but the evaluation gives \2",
    ),
    (
        RuntimeError,
        r"Connection (?:closed by peer|reset by peer)|Socket closed|Broken pipe|Failed to recv",
        "another process of the job has ended, such as torchrun, and said why if it could",
    ),
    (
        RuntimeError,
        r"(?:Timed out waiting|[Ww]ait timeout after) \d+ms|Timed out after \d+ seconds waiting",
        "another process of the job did not join or answer in time: see whether all were started "
        "and what they say; env_cfg.dist_cfg.timeout=SECONDS waits longer",
    ),
    (
        RuntimeError,
        r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (exited unexpectedly|is killed by signal: \w+)",
        r"a dataloader worker \1, most likely for lack of memory: lower num_workers or "
        r"batch_size of the dataloader",
    ),
    (
        OSError,
        rf"\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\].*",
        r"\g<0>: free some space",
    ),
    ((ValueError, TypeError, AssertionError), r".*", _refused_setting),
    (OSError, r".*", _system_error),
)
