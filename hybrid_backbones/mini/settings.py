"""Settings in the nested dicts and lists of a config."""

from collections.abc import Iterator

from mmengine.config import ConfigDict


def dicts(settings) -> Iterator[ConfigDict]:
    """Iterate over all dicts in nested dicts and lists."""
    if isinstance(settings, dict):
        yield settings
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from dicts(value)
