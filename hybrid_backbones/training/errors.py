"""Error reports of the commands: one line for a mistake of the user, a traceback for a bug.

An error is a mistake of the user if this package raises it, or if a library raises it and
`known_errors` explains it. Any other error counts as a bug, and its traceback is printed. The
traceback is written to the log file in both cases.
"""

import logging
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.logging import MMLogger

from .known_errors import KNOWN

PACKAGE = Path(__file__).resolve().parents[1]
# one entry of a printed traceback; the groups are the file and the source line
CALL = re.compile(r'^  File "(.+)", line \d+, in .+(?:\n    (.+))?', re.MULTILINE)


class Terminated(KeyboardInterrupt):
    """Interruption by SIGTERM or another signal, which job schedulers send.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = signal.Signals(number)


def stop_on_sigterm(*others: signal.Signals) -> None:
    """Make SIGTERM, and other signals if any are given, stop the program as Ctrl-C does."""

    def stop(number: int, _) -> None:
        raise Terminated(number)

    for signal_number in (signal.SIGTERM, *others):
        signal.signal(signal_number, stop)


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
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + signal.SIGPIPE)
        line = explain(error)
        log = _log_traceback()
        if line is not None:
            sys.exit(f"error: {line}")
        traceback.print_exc()
        sys.exit(
            f"error: unexpected {type(error).__name__}; its traceback is above"
            + (f", and in {log}" if log else "")
        )


def _nobody_reads() -> bool:
    """Return whether the reader of what is printed has left, as `head` does; forget the rest."""
    if sys.stdout is None:  # closed from the start
        return False
    pipe = sys.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # or Python would try again at its end
    os.dup2(os.open(os.devnull, os.O_WRONLY), pipe)
    return True


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
        if isinstance(handler, logging.FileHandler):
            # the disk may be full, which may be the error itself
            with suppress(OSError):
                handler.flush()
                # not to its stream: libraries that configure logging close those of all
                with open(handler.baseFilename, "a") as log:
                    log.write(traceback.format_exc())
                path = handler.baseFilename
    return path


def where_in_config(error: Exception) -> str:
    """Describe an error in a config, with the line if it has been executed that far."""
    calls = [c for c in traceback.extract_tb(error.__traceback__) if c.name == "<module>"]
    place = f" ({calls[-1].filename}, line {calls[-1].lineno})" if calls else ""
    reason = error.__cause__ or error
    return f"{type(reason).__name__}: {reason}{place}"
