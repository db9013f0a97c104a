"""Sizes of a network: a published variant by its name, or sizes of one's own, checked."""

from collections.abc import Mapping, Sequence
from typing import Any


def read_arch(arch: str | Mapping[str, Any], variants: Mapping[str, dict]) -> dict[str, Any]:
    """Return the settings of a variant, given by name or as a dict with the same keys.

    The key `drop_path_rate` may be omitted, in a table of variants as well; it is then 0.

    Raises:
        ValueError: if the name is unknown, a key is missing or unknown, or a value is not of the
            kind that the variants have: four positive integers, one for each stage, a positive
            number, or one of their choices.
    """
    if isinstance(arch, str):
        if arch not in variants:
            raise ValueError(f"arch must be one of {sorted(variants)} or a dict, got {arch!r}")
        return {"drop_path_rate": 0.0, **variants[arch]}
    keys = next(iter(variants.values())).keys()
    if not isinstance(arch, Mapping) or {*arch, "drop_path_rate"} != keys | {"drop_path_rate"}:
        raise ValueError(f"arch as a dict must have the keys {sorted(keys)}, got {arch!r}")
    for key in keys - {"drop_path_rate"}:
        _require_kind(key, arch[key], [sizes[key] for sizes in variants.values()])
    return {"drop_path_rate": 0.0, **arch}


def _require_kind(key: str, value: Any, published: Sequence[Any]) -> None:
    """Check that a value of an `arch` is of the kind of those of the variants."""
    if isinstance(published[0], tuple):
        expected = "four positive integers"
        fits = isinstance(value, list | tuple) and len(value) == 4
        fits = fits and all(isinstance(number, int) and number > 0 for number in value)
    elif isinstance(published[0], bool):
        expected = f"one of {sorted({*published}, key=str)}"
        fits = value in published
    else:
        expected = "a positive number"
        fits = isinstance(value, int | float) and value > 0
    if not fits:
        raise ValueError(f"{key} of arch must be {expected}, got {value!r}")
