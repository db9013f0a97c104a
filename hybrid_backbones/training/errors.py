"""Error reports of the commands: one line for a mistake of the user, a traceback for a bug.

An error is a mistake of the user if this package raises it, or if a library raises it and `KNOWN`
explains it. Any other error counts as a bug, and its traceback is printed. The traceback is written
to the log file in both cases.
"""

import errno
import inspect
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from urllib.error import HTTPError

import torch
from mmengine.logging import MMLogger
from mmengine.registry import OPTIMIZERS, Registry

from ..suggestions import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
# one entry of a printed traceback; the groups are the file and the source line
CALL = re.compile(r'^  File "(.+)", line \d+, in .+(?:\n    (.+))?', re.MULTILINE)

# errors about files that a user can cause, by a wrong path, folder or URL
USERS_ERRORS: tuple[type[OSError], ...] = (FileNotFoundError, PermissionError, HTTPError)
USERS_ERRORS += (IsADirectoryError, NotADirectoryError)


class Terminated(KeyboardInterrupt):
    """Interruption by SIGTERM or another signal, which job schedulers send.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = signal.Signals(number)


def stop_on_sigterm() -> None:
    """Make SIGTERM stop the program as Ctrl-C does."""

    def stop(number: int, _) -> None:
        raise Terminated(number)

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with one line for a mistake or an interruption, and with a traceback for a bug."""
    try:
        yield
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        sys.stderr.write(f"\nstopped by {number.name}{f': {stop}' if stop.args else ''}\n")
        sys.exit(128 + number)
    except Exception as error:  # the outermost handler of a command
        line = explain(error)
        log = _log_traceback()
        if line is not None:
            sys.exit(f"error: {line}")
        traceback.print_exc()
        sys.exit(
            f"error: unexpected {type(error).__name__}; its traceback is above"
            + (f", and in {log}" if log else "")
        )


def explain(error: Exception) -> str | None:
    """Return one line that explains a mistake of the user, or None for a possible bug."""
    message = _message(error)
    if _is_raised_on_purpose(error):
        return message
    for kind, pattern, explanation in KNOWN:
        match = re.search(pattern, message) if isinstance(error, kind) else None
        if match:
            line = explanation(error, match) if callable(explanation) else match.expand(explanation)
            if line is not None:
                return line
    return None


def _calls(error: Exception) -> list[tuple[str, str]]:
    """Return (file, source line) of each call in the traceback, a dataloader worker's included."""
    if "Original Traceback" in str(error):
        return CALL.findall(str(error))
    return CALL.findall("".join(traceback.format_tb(error.__traceback__)))


def _is_raised_on_purpose(error: Exception) -> bool:
    """Return whether an error comes from a `raise` statement of this package."""
    file, source = (_calls(error) or [("", "")])[-1]
    return PACKAGE in Path(file).resolve().parents and source.startswith("raise ")


def _message(error: Exception) -> str:
    # the text of a KeyError is the repr of its message
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Original Traceback" in text:
        # the text of an error in a dataloader worker is the worker's traceback
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or repr(error)


def _log_traceback() -> str | None:
    """Write the traceback to the log file, and return the path of that file if there is one."""
    path = None
    for handler in MMLogger.get_current_instance().handlers:
        if hasattr(handler, "baseFilename"):
            # the disk may be full, which may be the error itself
            with suppress(OSError), handler.lock:
                handler.stream.write(traceback.format_exc())
                handler.flush()
                path = handler.baseFilename
    return path


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
    is_users = isinstance(error, USERS_ERRORS) or error.errno == errno.EROFS
    return match[0] if is_users and error.filename is not None else None


# errors of libraries that mistakes of a user cause: class of the error, pattern of its message, and
# line for the user, a template of `re.Match.expand` or a function that returns None for a bug
KNOWN: tuple[tuple[type[Exception], str, str | Callable[..., str | None]], ...] = (
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
    (ValueError, r"^need at least one array to concatenate$", _empty_set),
    (
        ValueError,
        r"Expected more than 1 value per channel when training",
        "batch normalisation needs more than one value per channel: raise "
        "train_dataloader.batch_size, or the image size",
    ),
    (
        torch.cuda.OutOfMemoryError,
        r"",
        "the GPU's memory is full: lower train_dataloader.batch_size, add --amp, or set "
        "model.backbone.with_cp=True to recompute activations",
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
    (OSError, r".*", _system_error),
)


def where_in_config(error: Exception) -> str:
    """Describe an error in a config, with the line if it has been executed that far."""
    calls = [c for c in traceback.extract_tb(error.__traceback__) if c.name == "<module>"]
    place = f" ({calls[-1].filename}, line {calls[-1].lineno})" if calls else ""
    reason = error.__cause__ or error
    return f"{type(reason).__name__}: {reason}{place}"
