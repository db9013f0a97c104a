"""Published checkpoints: unwrap, rename by rules, load strictly, report.

mmengine loads ``init_cfg=dict(type='Pretrained')`` non-strictly, so a published file with its own
names would load nothing and only log it. Here everything fits, or nothing is loaded.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .paddle_checkpoints import SUFFIX, from_paddle, is_paddle, read_paddle

# keys under which training scripts store the weights, in the order of trial
STATE_DICT_KEYS = ("state_dict", "model")
# names that one error message lists of each kind
MAX_LISTED = 20


def _statistic(owner: type, name: str):
    """Stand in for `getattr`, with which mmengine's log names its statistics."""
    if owner is not HistoryBuffer or name not in ("current", "max", "mean", "min"):
        raise pickle.UnpicklingError(f"a checkpoint may not look up {name!r} of {owner!r}")
    return getattr(owner, name)


# mmengine's checkpoints hold its log too, in numpy arrays and scalars. With these allowed, they are
# read safely, also by versions of mmengine that call `torch.load` without further ado
torch.serialization.add_safe_globals(
    [
        HistoryBuffer,
        (_statistic, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        np.zeros(0).__reduce__()[0],
        np.float64(0).__reduce__()[0],
        *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?")},
    ]
)


class LoadReport(NamedTuple):
    """What became of each entry, by name."""

    loaded: list[str]  # names in the model
    dropped: list[str]  # names in the checkpoint that the model has no place for, by rule
    fresh: list[str]  # names in the model that keep their initialisation, by rule

    def __str__(self) -> str:
        text = f"{len(self.loaded)} entries loaded"
        for verb, names in (("dropped", self.dropped), ("left fresh", self.fresh)):
            if names:
                text += f", {len(names)} {verb} ({_list(sorted(names))})"
        return text


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def read_state_dict(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, whatever training script wrote it.

    Files are read with ``weights_only=True``: no code in them is run.

    Args:
        checkpoint: a path, an http(s) URL, or an already loaded dict; the weights themselves or a
            dict that holds them under ``state_dict`` or ``model``. Paddle's ``.pdparams`` and
            arrays are converted.

    Raises:
        ValueError: where there is no such file, it is not a checkpoint, or holds no weights.
    """
    content = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    content = content if isinstance(content, Mapping) else {type(content).__name__: content}
    if is_paddle(content):
        content = from_paddle(content)
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ValueError(
            "no weights in the checkpoint: expected named tensors, bare or under one of "
            f"{STATE_DICT_KEYS}, got other things, {others[:8]}"
        )
    state_dict = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): x for name, x in state_dict.items()}
    return state_dict


def read_checkpoint(checkpoint: str | Path) -> Mapping:
    """Read all that a checkpoint file or URL holds, without running code in it.

    Raises:
        ValueError: where there is no such file, or it is not a checkpoint.
    """
    path = str(checkpoint)
    downloaded = path.startswith(("http://", "https://"))
    path = _download(path) if downloaded else path
    try:
        if path.endswith(SUFFIX):
            return read_paddle(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"no checkpoint at {path!r}: check the path") from error
    except Exception as error:  # a file of another kind fails in many ways
        advice = "; delete it if the download was cut short" if downloaded else ""
        raise ValueError(
            f"cannot read {path!r} as a checkpoint of weights: {error}{advice}"
        ) from error


def _download(url: str) -> str:
    """Download a checkpoint into PyTorch's cache, unless it is there, and return its path."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:
            raise ValueError(f"cannot download {url!r}: {error}") from error
    return str(path)


def load_published(model: nn.Module, checkpoint: str | Path | Mapping) -> LoadReport:
    """Load weights with their published names into a backbone or into a model around one.

    The backbone's `rename_rules` give the names; its classifier is loaded where the model is an
    mmpretrain classifier and dropped elsewhere. Checkpoints of this project's own classifiers load
    too. The model is changed only if every entry fits.

    Args:
        model: a backbone of this package, or a model with one as its attribute `backbone`.
        checkpoint: as for :func:`read_state_dict`.

    Raises:
        ValueError: lists the entries that are missing, unexpected or of another shape.
    """
    # a detector may have rules for all that it has
    backbone = model if hasattr(model, "rename_rules") else getattr(model, "backbone", model)
    if not hasattr(backbone, "rename_rules"):
        raise ValueError(
            "expected a backbone of hybrid_backbones or a model around one, "
            f"got {type(model).__name__} with {type(backbone).__name__}"
        )
    is_classifier = _is_classifier(model)
    target = model if is_classifier else backbone
    own = target.state_dict()

    given, dropped = {}, []
    for name, value in read_state_dict(checkpoint).items():
        renamed = rename(name, backbone.rename_rules)
        if any(re.search(pattern, renamed) for pattern in backbone.computed_entries):
            dropped.append(name)
            continue
        ours = renamed
        if is_classifier and not renamed.startswith(backbone.classifier_parts):
            ours = f"backbone.{renamed}"
        if ours not in own and not is_classifier and backbone.has_no_place_for(renamed):
            dropped.append(name)
        elif ours in given:
            raise ValueError(f"two entries of the checkpoint stand for {ours}, one is {name}")
        else:
            given[ours] = value

    missing = own.keys() - given.keys()
    # of each kind all or none: a checkpoint with some of them has lost the others
    absent = [p for p in backbone.fresh_entries if not any(re.search(p, name) for name in given)]
    fresh = [name for name in missing if any(re.search(p, name) for p in absent)]
    _require_fit(type(backbone).__name__, own, given, missing.difference(fresh))
    target.load_state_dict(own | given)
    report = LoadReport(sorted(given), dropped, sorted(fresh))
    print_log(f"{type(backbone).__name__}: {report}", logger="current")
    return report


def load_trained(model: nn.Module, checkpoint: str | Path) -> None:
    """Load what a training of this very model has saved; for a classifier, published weights too.

    Raises:
        ValueError: lists the entries that are missing, unexpected or of another shape.
    """
    if _is_classifier(model):
        load_published(model, checkpoint)
    else:
        model.load_state_dict(require_same_entries(model, checkpoint))


def require_same_entries(model: nn.Module, checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint whose entries are those of the model.

    Raises:
        ValueError: lists the entries that are missing, unexpected or of another shape.
    """
    model = getattr(model, "module", model)  # what DistributedDataParallel wraps
    own, given = model.state_dict(), read_state_dict(checkpoint)
    _require_fit(type(model).__name__, own, given, own.keys() - given.keys())
    return given


def _is_classifier(model: nn.Module) -> bool:
    """Tell whether a model is a classifier around one of our backbones."""
    backbone = getattr(model, "backbone", None)
    return hasattr(backbone, "rename_rules") and getattr(model, "head", None) is not None


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Apply (pattern, replacement) rules in turn, after stripping our own ``backbone.``."""
    name = name.removeprefix("backbone.")
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _require_fit(network: str, own: Mapping, given: Mapping, missing: set[str]) -> None:
    shapes = [
        f"{name}: {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & given.keys())
        if own[name].shape != given[name].shape
    ]
    problems = {
        "missing": sorted(missing),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": shapes,
    }
    lines = []
    for kind, names in problems.items():
        if names:
            lines.append(f"{len(names)} {kind}: {_list(names)}")
    if lines:
        raise ValueError(
            f"the checkpoint does not fit {network}, nothing was loaded. "
            + "; ".join(lines)
            + ". Is it a checkpoint of this architecture and size?"
        )


@WEIGHT_INITIALIZERS.register_module(name="Published")
class PublishedInit:
    """Initialise from a checkpoint: ``init_cfg=dict(type='Published', checkpoint=...)``."""

    def __init__(self, checkpoint: str | Path):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load into `module`, as :func:`load_published` does."""
        report = load_published(module, self.checkpoint)
        # what has been loaded must not be initialised again by a method of its own
        for name, part in module.named_modules():
            if isinstance(part, BaseModule) and any(
                entry.startswith(f"{name}.") for entry in report.loaded
            ):
                part.is_init = True
