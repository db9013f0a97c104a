"""How a command ends when something goes wrong: one line for a mistake, a traceback for a bug.

A mistake is what this package raises on purpose, or an error of the libraries that `KNOWN`
explains. Everything else is a bug, here or elsewhere, and shows where it happened. The log file
gets the traceback in both cases.
"""

import difflib
import inspect
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from mmengine.registry import OPTIMIZERS, Registry

PACKAGE = Path(__file__).resolve().parents[1]
# a call in the text of a traceback: its file, and the source of its line
CALL = re.compile(r'^  File "(.+)", line \d+, in .+(?:\n    (.+))?', re.MULTILINE)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as job schedulers do."""


def stop_on_sigterm() -> None:
    """Let SIGTERM stop the program as Ctrl-C does."""

    def stop(*_) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for a mistake or a stop, and with a traceback for a bug."""
    try:
        yield
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        sys.stderr.write(f"\nstopped by {number.name}{f': {stop}' if stop.args else ''}\n")
        sys.exit(128 + number)
    except Exception as error:  # the last place that can say something about it
        log = _log_traceback()
        line = explain(error)
        if line is not None:
            sys.exit(f"error: {line}")
        traceback.print_exc()
        sys.exit(
            f"error: unexpected {type(error).__name__}; its traceback is above"
            + (f", and in {log}" if log else "")
        )


def explain(error: Exception) -> str | None:
    """Return one line about a mistake of the user, or None for what may be a bug."""
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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question that names what is most like `name`, or nothing."""
    near = difflib.get_close_matches(name, sorted(set(names) - {name}), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _calls(error: Exception) -> list[tuple[str, str]]:
    """Return (file, source line) of the calls that led to an error, also of a loading worker's."""
    if "Original Traceback" in str(error):
        return CALL.findall(str(error))
    return CALL.findall("".join(traceback.format_tb(error.__traceback__)))


def _is_raised_on_purpose(error: Exception) -> bool:
    """Tell whether a `raise` of this package is where an error comes from."""
    file, source = (_calls(error) or [("", "")])[-1]
    return PACKAGE in Path(file).resolve().parents and source.startswith("raise ")


def _message(error: Exception) -> str:
    # the text of a KeyError is the repr of its message
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Original Traceback" in text:
        # an error of a loading worker has the worker's traceback as its text
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or repr(error)


def _log_traceback() -> str | None:
    """Write the traceback into the log file, and return the path of it if there is one."""
    path = None
    for handler in MMLogger.get_current_instance().handlers:
        if hasattr(handler, "baseFilename"):
            path = handler.baseFilename
            handler.acquire()
            handler.stream.write(traceback.format_exc())
            handler.flush()
            handler.release()
    return path


def _variables(error: Exception, name: str) -> dict:
    """Return the variables of the last call that has one of this name."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((f.f_locals for f in reversed(frames) if name in f.f_locals), {})


def _unknown_argument(error: Exception, match: re.Match) -> str | None:
    """Explain a setting in the config that its class does not take."""
    build = _variables(error, "obj_cls")
    if match[1] not in build.get("args", ()):
        return None
    built = build["obj_cls"]
    calls = [kind.__init__ for kind in inspect.getmro(built)] if inspect.isclass(built) else [built]
    names = {name for call in calls for name in inspect.signature(call).parameters}
    near = did_you_mean(match[1], names - {"self", "args", "kwargs"})
    return f"the config gives {built.__name__} an argument {match[1]!r} that it does not take{near}"


def _missing_argument(error: Exception, match: re.Match) -> str | None:
    """Explain a setting that a class needs and the config lacks."""
    built = _variables(error, "obj_cls").get("obj_cls")
    if match[1] != getattr(built, "__name__", None):
        return None
    return f"the config does not give {match[1]} what it needs: {match[2]}"


def _unknown_type(error: Exception, match: re.Match) -> str:
    """Explain a type that no registry knows."""
    return _no_such_type(match[1], _variables(error, "obj_type").get("registry"))


def _unknown_optimizer(error: Exception, match: re.Match) -> str | None:
    """Explain an optimiser that no registry knows, at which mmengine stumbles."""
    settings = _variables(error, "optimizer_cls").get("optimizer_cfg")
    return _no_such_type(settings["type"], OPTIMIZERS) if settings else None


def _no_such_type(name: str, registry: Registry | None) -> str:
    kind, names = getattr(registry, "name", "object"), set()
    while registry is not None:
        names |= registry.module_dict.keys()
        registry = registry.parent
    return (
        f"there is no {kind} called {name}{did_you_mean(name, names)} (correct the type in the "
        "config, or import what registers it with custom_imports)"
    )


def _empty_set(error: Exception, match: re.Match) -> str | None:
    """Explain a set without samples, which mmengine cannot store."""
    if all(call.name != "_serialize_data" for call in traceback.extract_tb(error.__traceback__)):
        return None
    return "a data set of the config is empty: check its data_root, ann_file and filter_cfg"


def _system_error(error: Exception, match: re.Match) -> str | None:
    """Pass on what the system says about a file."""
    return match[0] if error.filename is not None else None


# mistakes that the libraries find: the class of the error, what it says, and the line for the user,
# in which \1 is the first group; or a function that writes it, or returns None for a bug
KNOWN: tuple[tuple[type[Exception], str, str | Callable[..., str | None]], ...] = (
    (
        TypeError,
        r"DataLoader\.__init__\(\) got an unexpected keyword argument '(\w+)'",
        r"a dataloader of the config has a setting '\1', which PyTorch's DataLoader does not take",
    ),
    (TypeError, r"\(\) got an unexpected keyword argument '(\w+)'", _unknown_argument),
    (TypeError, r"(\w+)\.__init__\(\) missing \d+ required .*arguments?: (.+)", _missing_argument),
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
        r"there is no \1 to import: correct the type in the config",
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
        "train_dataloader.batch_size, or the size of the images",
    ),
    (
        torch.cuda.OutOfMemoryError,
        r"",
        "the GPU's memory is full: lower train_dataloader.batch_size, add --amp, or set "
        "model.backbone.with_cp=True to recompute activations",
    ),
    (
        RuntimeError,
        r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (exited unexpectedly|is killed by signal: \w+)",
        r"a process that loads data \1, most likely for want of memory: lower num_workers or "
        r"batch_size of the dataloader",
    ),
    (
        OSError,
        r"\[Errno 28\].*",
        r"\g<0>: free some space",
    ),
    (OSError, r".*", _system_error),
)
