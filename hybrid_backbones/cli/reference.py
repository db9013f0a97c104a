"""The commands and their arguments as tables in Markdown, for the documentation."""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module

from ..benchmark.page_parts import PARTS as TABLES
from ..benchmark.tables import markdown_table
from .main import COMMANDS


def describe_command(name: str) -> str:
    """Return what a command does, and the table of its arguments or of those of its subcommands.

    Args:
        name: a key of `COMMANDS`.
    """
    module, text = COMMANDS[name]
    parser = import_module(f".{module}", __package__).make_parser()
    parser.prog = f"hb {name}"
    says = f"{text[0].upper()}{text[1:]}; in a checkout also `python tools/{module}.py`."
    return "\n\n".join([says, *_tables(parser)])


def _tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    # argparse has no other way to its arguments
    actions = [action for action in parser._actions if action.dest != "help"]
    rows = []
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            meanings = {choice.dest: choice.help for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield f"`{parser.prog} {name}`: {meanings[name]}"
                inner.prog = f"{parser.prog} {name}"
                yield from _tables(inner)
        else:
            rows.append((_spelling(parser, action), _meaning(parser, action)))
    if rows:
        yield markdown_table(("argument", "meaning"), rows)


def _spelling(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an argument as one types it, such as ``--size H W``."""
    names = ", ".join(action.option_strings)
    values = "" if action.nargs == 0 else _values(parser, action)
    return f"`{f'{names} {values}'.strip()}`"


def _values(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    name = action.dest.upper() if action.option_strings else action.dest
    return parser._get_formatter()._format_args(action, name)


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action)


# the parts of the documentation that come from the code, those of the commands among them
PARTS: dict[str, Callable[[str], str]] = {**TABLES, "command": describe_command}
