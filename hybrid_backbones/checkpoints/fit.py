"""Checks that a checkpoint fits a model: names, shapes, kinds and values of its entries."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

# maximum number of names per kind of problem in an error message
MAX_LISTED = 20
OTHER_SIZE = "Is it a checkpoint of this architecture and size?"
OTHER_CLASSES = (
    "These layers are for other classes: set num_classes as the checkpoint has it, or train them "
    "anew with --fresh-head of hb train"
)


def listed(names: Sequence[str]) -> str:
    """Return names as one text, of which the first `MAX_LISTED` are written out."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def require_fit(network: str, own: Mapping, given: Mapping, missing: Iterable[str]) -> None:
    """Check that the given entries are those of a model, and finite.

    Args:
        network: name of the model, for the message.
        own: entries of the model.
        given: entries of the checkpoint, under the model's names.
        missing: names of the model's entries that the checkpoint should have, but lacks.

    Raises:
        ValueError: lists what does not fit.
    """
    misshapen = [
        name for name in sorted(own.keys() & given.keys()) if own[name].shape != given[name].shape
    ]
    problems = {
        "missing": sorted(missing),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": [
            f"{name}: {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
            for name in misshapen
        ],
        **misfits(own, given),
    }
    of_heads = bool(misshapen) and misshapen == layers_of_other_classes(own, given)
    is_about_classes = of_heads and not problems["missing"] and not problems["unexpected"]
    raise_problems(network, problems, OTHER_CLASSES if is_about_classes else OTHER_SIZE)


def layers_of_other_classes(own: Mapping, given: Mapping) -> list[str]:
    """Return the entries of heads that differ from the model's in their number of outputs alone."""
    return [
        name
        for name in sorted(own.keys() & given.keys())
        if not name.startswith(("backbone.", "neck."))
        and own[name].shape != given[name].shape
        and own[name].shape[1:] == given[name].shape[1:]
        and own[name].ndim == given[name].ndim > 0
    ]


def misfits(own: Mapping, given: Mapping) -> dict[str, list[str]]:
    """Return the entries with matching name and shape but unusable values, by kind of problem."""
    fitting = [n for n in sorted(own.keys() & given.keys()) if own[n].shape == given[n].shape]
    kinds = [
        f"{name}: {given[name].dtype} instead of {own[name].dtype}"
        for name in fitting
        if own[name].is_floating_point() and not given[name].is_floating_point()
    ]
    return {
        "of another kind": kinds,
        "NaN or infinite": [name for name in fitting if not _is_finite(given[name])],
    }


def raise_problems(network: str, problems: Mapping[str, Sequence[str]], hint: str = "") -> None:
    """Raise an error that lists the entries of each kind of problem, if there are any.

    Raises:
        ValueError: if a kind of problem has entries.
    """
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(
            f"the checkpoint does not fit {network}, nothing was loaded. "
            + "; ".join(found)
            + (f". {hint}" if hint else "")
        )


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point() or not values.numel():
        return True
    # PyTorch has no reductions of 8-bit floats
    values = values.float() if values.itemsize == 1 else values
    # many times faster than `isfinite` on every value
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
