"""Checked `--cfg-options`: overrides on the command line must match the config.

mmengine silently adds a key that the config does not have, so a misspelt key has no effect.
"""

import difflib
import inspect
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from ..suggestions import did_you_mean

# stands for a space, which mmengine's parser removes; no argument of a command can have it
SPACE = "\0"
# config keys that mmengine reads although they are no arguments of its runner
RUNNER_KEYS: tuple[str, ...] = ("activation_checkpointing", "compile", "custom_imports")
RUNNER_KEYS += ("efficient_conv_bn_eval", "find_unused_parameters", "model_wrapper_cfg", "sync_bn")
RUNNER_KEYS += ("tta_model", "tta_pipeline", *inspect.signature(Runner).parameters)

# settings that are numbers in the configs, and that the libraries also accept as None, as a
# sequence, or as any other value
OR_NONE: tuple[str, ...] = ("T_max", "end", "eta_min", "eta_min_ratio", "indices")
OR_NONE += ("prefetch_factor", "seed", "size_divisor")
OR_SEQUENCE: tuple[str, ...] = ("brightness", "contrast", "crop_size", "in_channels", "in_index")
OR_SEQUENCE += ("kernel_size", "mask_size", "output_size", "pad_val", "prob", "roi_feat_size")
OR_SEQUENCE += ("saturation", "scale")
OR_ANYTHING = ("loss_scale",)
# settings that are dicts in the configs, and that the libraries also accept as a single value
OR_SINGLE = ("compile", "data_prefix", *OR_ANYTHING)


class CfgOptions(DictAction):
    """Parse KEY=VALUE as mmengine does, and report malformed arguments with the usage."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: list[str], option_string=None
    ) -> None:
        """Parse the values that follow the flag."""
        for value in values:
            if "=" not in value.lstrip("="):
                parser.error(f"{option_string}: expected KEY=VALUE, got {value!r}")
            if any(value.count(left) != value.count(right) for left, right in ("()", "[]")):
                parser.error(f"{option_string}: a bracket is not closed in {value!r}")
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Parse a value as mmengine does, but keep spaces in names, and commas in paths."""
        if "," in val and os.path.exists(os.path.expanduser(val)):
            return val
        spaced = re.sub(r"(?<=[,(\[])\s+|\s+(?=[,)\]])", "", val.strip())
        return _with_spaces(DictAction._parse_iterable(spaced.replace(" ", SPACE)))


def add_cfg_options(
    parser: ArgumentParser, what: str = "config settings to override", **others: Any
) -> None:
    """Add the flag `--cfg-options` to a parser.

    Args:
        parser: parser of a command.
        what: help of the flag.
        others: further settings of the argument, such as its default.
    """
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help=what,
        **others,
    )


def _with_spaces(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_with_spaces, value))
    return value.replace(SPACE, " ") if isinstance(value, str) else value


def apply_cfg_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge the options of the command line into a config, in place.

    Raises:
        ValueError: if a key is not in the config, or a value is of another kind than the old one.
    """
    for key, value in options.items():
        _require_match(cfg, key, value, options)
    cfg.merge_from_dict(options)


def _require_match(cfg: Config, key: str, value: Any, options: dict[str, Any]) -> None:
    """Check that a dotted key is in the config, and that the new value is of the same kind."""
    settings, names = cfg, key.split(".")
    for i, name in enumerate(names):
        path = ".".join(names[:i])
        if isinstance(settings, list | tuple):
            if not (name.isdigit() and int(name) < len(settings)):
                raise ValueError(
                    f"--cfg-options {key}: {path} has {len(settings)} elements, counted from 0; "
                    f"there is no {name}"
                )
            settings = settings[int(name)]
        elif settings is None:
            return
        elif not hasattr(settings, "keys"):
            raise ValueError(f"--cfg-options {key}: {path} is {settings!r}, which has no {name}")
        elif name in settings:
            settings = settings[name]
        else:
            _require_new_name(settings, names, i, options)
            return
    expected = _expected_instead(names[-1], settings, value)
    if expected is not None:
        raise ValueError(f"--cfg-options {key}: expected {expected}, got {value!r}")


def _expected_instead(name: str, setting: Any, value: Any) -> str | None:
    """Return a description of the values that a setting accepts, or None if it accepts `value`."""
    if _is_number(setting):
        fits = _is_number(value) or name in OR_ANYTHING
        fits |= value is None and name in OR_NONE
        fits |= isinstance(value, list | tuple) and name in OR_SEQUENCE
        return None if fits else f"a number, as {setting!r} in the config"
    is_dict, is_list = isinstance(setting, dict), isinstance(setting, list | tuple)
    if is_dict or (is_list and setting and all(isinstance(item, dict) for item in setting)):
        items = value if isinstance(value, list | tuple) else [value]
        fits = value is None or name in OR_SINGLE or all(isinstance(x, dict) for x in items)
        kind, place = ("a dict", "NAME") if is_dict else ("a list of dicts", "NUMBER.NAME")
        return None if fits else f"{kind}, as in the config, of which KEY.{place}=VALUE sets one"
    return None


def _require_new_name(settings, names: list[str], i: int, options: dict[str, Any]) -> None:
    """Check that the `i`-th name of a dotted key may be added to `settings`."""
    if "type" in settings:
        # an argument of a class, which rejects unknown arguments when it is built
        return
    name, path = names[i], ".".join(names[:i])
    if i == 0:
        known, may_be_new = {*settings, *RUNNER_KEYS}, name in RUNNER_KEYS
    else:
        known, is_built = settings, f"{path}.{name}.type" in options
        may_be_new = (i == len(names) - 1 or is_built) and not _is_misspelt(name, settings)
    if not may_be_new:
        raise ValueError(
            f"--cfg-options {'.'.join(names)}: {path or 'the config'} has no {name!r}"
            f"{did_you_mean(name, known)}"
        )


def _is_misspelt(name: str, names: Iterable[str]) -> bool:
    """Return whether a name is likely a misspelling of one of `names`."""
    return bool(difflib.get_close_matches(name, names, cutoff=0.8))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
