"""Configs follow the published recipes, or their docstrings name where they depart."""

import ast
import csv
import re
from pathlib import Path

import pytest
from recipe_settings import SETTINGS, Recipe, read_setting

from hybrid_backbones.benchmark.zoo import find_configs

TABLE = Path(__file__).with_name("published_recipes.tsv")
CONFIGS = find_configs(TABLE.parent.parent / "configs")
ROWS = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
ROWS = list(csv.DictReader(ROWS, delimiter="\t", quoting=csv.QUOTE_NONE))
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def read_docstrings(path):
    """Return the docstring of a config, then those that its title refers to, one by one."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    other = re.search(r"see `(\w+\.py)`", docstring.split("\n\n")[0])
    return [docstring, *(read_docstrings(path.with_name(other[1])) if other else ())]


def named_departures(path):
    """Return the settings that a config says it departs in, each before a colon."""
    for docstring in read_docstrings(path):
        if found := re.search(r"^Departs: +(.*(?:\n +.*)*)", docstring, re.MULTILINE):
            entries = re.sub(r"\s+", " ", found[1]).split("; ")
            return {entry.partition(":")[0] for entry in entries}
    return set()


def rows_of(path):
    return [row for row in ROWS if re.fullmatch(row["configs"], path.stem)]


@every_config
def test_each_setting_is_the_published_one_or_named_as_a_departure(path):
    recipe = Recipe(path, "\n".join(read_docstrings(path)))
    departures = {}
    for row in rows_of(path):
        published = ast.literal_eval(row["value"])
        ours = read_setting(recipe, row["setting"], published)
        if isinstance(published, float):
            published = pytest.approx(published)
        if ours != published:
            departures[row["setting"]] = f"{ours}, published {row['value']} by {row['source']}"
    assert departures.keys() == named_departures(path), departures


@every_config
def test_only_what_departs_nowhere_is_called_the_published_recipe(path):
    if "published recipe" in read_docstrings(path)[0]:
        assert len(rows_of(path)) > 20
        assert not named_departures(path)


@every_config
def test_the_length_and_the_batch_of_each_training_have_a_source(path):
    settings = {row["setting"] for row in rows_of(path)}
    assert "batch" in settings
    assert settings & {"epochs", "iterations"}


def test_a_setting_of_a_config_is_in_one_row():
    for path in CONFIGS:
        settings = [row["setting"] for row in rows_of(path)]
        assert len(settings) == len(set(settings)), path.stem


def test_each_row_is_about_configs_and_a_known_setting_and_has_a_known_source():
    sources = re.findall(r"^# (\w+) +https", TABLE.read_text(), re.MULTILINE)
    for row in ROWS:
        assert any(re.fullmatch(row["configs"], path.stem) for path in CONFIGS), row
        assert row["setting"] in SETTINGS or row["setting"] == "no decay", row
        assert row["source"].split()[0] in sources, row
