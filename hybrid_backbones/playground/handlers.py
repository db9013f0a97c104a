"""Event handlers of the page: a mistake is one sentence on it, and our own bug is logged."""

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

import gradio as gr
from mmengine.logging import MMLogger

from ..training.errors import explain


def require_chosen(value: Any, choices: Collection[Any], label: str) -> None:
    """Check that a field, which a user can empty, has one of its choices.

    Raises:
        ValueError: if it does not; the message is one sentence.
    """
    if value not in choices:
        raise ValueError(f"Choose one of the field {label} first.")


def read_score(value: float | None) -> float:
    """Return the value of the field of the lowest score.

    Raises:
        ValueError: if it is empty or not from 0 to 1; the message is one sentence.
    """
    if value is None or not 0 <= value <= 1:
        raise ValueError("Set the lowest score to a number from 0 to 1.")
    return value


def as_sentence(error: Exception) -> gr.Error:
    """Return what the page shows of an error; an unforeseen one is logged with its traceback."""
    if isinstance(error, gr.Error):
        return error
    sentence = explain(error)
    if sentence is None:
        logger = MMLogger.get_current_instance()
        logger.log(logging.ERROR, "the playground has a bug", exc_info=error)
        sentence = (
            f"Something went wrong here that is no fault of yours ({type(error).__name__}); the "
            "traceback is in the log of the server."
        )
    return gr.Error(sentence, print_exception=False)


def reporting(function: Callable) -> Callable:
    """Wrap an event handler, a function or a generator, so that its errors become sentences.

    Apply it to handlers only: what they call raises ValueError with one sentence for a mistake.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:  # the outermost handler of a request
                raise as_sentence(error) from None

        return steps

    @functools.wraps(function)
    def whole(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # the outermost handler of a request
            raise as_sentence(error) from None

    return whole
