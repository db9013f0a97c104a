"""Code blocks of pages in Markdown, and how they are run."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from hybrid_backbones.cli.main import main

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r'(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)(?: title="(?P<title>.+?)")?\n'
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# the printed line that a comment behind or below a print says
SAID = re.compile(r"^print\(.*\)(?:  |\n)# (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A code block; `reason` says why it is not run, `title` names the file that it is."""

    reason: str | None
    language: str
    title: str | None
    code: str


def blocks(text, language):
    """Return the code blocks of a page in a language."""
    found = (Block(**match.groupdict()) for match in BLOCK.finditer(text))
    return [block for block in found if block.language == language]


def execute(code, page, names=None):
    """Run a block; return the names that it defines, added to those of earlier blocks."""
    names = {"__name__": "page"} if names is None else names
    exec(compile(code, page, "exec"), names)
    return names


def commands(code):
    """Return the commands of a shell block, each as its words without variables of a shell."""
    return (words for _, words in lines_and_commands(code))


def lines_and_commands(code):
    """Return the commands of a shell block, each with its line, which has variables, too."""
    # lists and results of commands that become variables
    code = re.sub(r"^\w+=\$?\(.*?\)$", "", code, flags=re.MULTILINE | re.DOTALL)
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            whole = words = shlex.split(part, comments=True)
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            # a launcher of processes runs `hb` as a module
            if "hybrid_backbones.cli" in words:
                words = ["hb", *words[words.index("hybrid_backbones.cli") + 1 :]]
            if words:
                yield " ".join(whole), words


def parse(words, monkeypatch):
    """Parse a command of this package by its own parser, and return the arguments."""
    parse_args, parsed = argparse.ArgumentParser.parse_args, []

    def parse_only(self, *args):
        parsed.append(parse_args(self, *args))
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", words[1:])
    run = main if words[0] == "hb" else run_tool
    with pytest.raises(SystemExit) as end:
        run(words[1:])
    monkeypatch.undo()
    assert end.value.code is None, words
    return parsed[0]


def run_tool(words):
    runpy.run_path(str(REPOSITORY / words[0]), run_name="__main__")
