"""Resume an interrupted training: find its checkpoint, and compare its settings with the config.

mmengine restores the optimizer and the schedulers with all their settings, and takes the rest from
the config. A setting that was changed after the interruption may thus have no effect, so every
difference is reported.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS, PARAM_SCHEDULERS, Registry

from ..checkpoints.files import runs_code
from .saving import find_last_checkpoint
from .sharding import divided_like, undivided_type

OPTIMIZER = "optim_wrapper.optimizer"
# settings restored from a checkpoint, which replace those of the config, with the registry of what
# mmengine builds from them
RESTORED = {
    OPTIMIZER: OPTIMIZERS,
    "optim_wrapper.paramwise_cfg": None,
    "optim_wrapper.constructor": OPTIM_WRAPPER_CONSTRUCTORS,
    "param_scheduler": PARAM_SCHEDULERS,
    "auto_scale_lr": None,
    "randomness.seed": None,
}
# settings whose differences are reported
COMPARED = (*RESTORED, "model", "data_preprocessor", "optim_wrapper", "train_dataloader")
COMPARED += ("train_cfg", "default_hooks", "custom_hooks")
# exceptions, which only affect the speed
SPEED = tuple(
    f"train_dataloader.{name}"
    for name in ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")
)
# parts of mmengine's message hub that it restores
HUB = ("log_scalars", "runtime_info", "resumed_keys")
# errors that `read_settings` raises for a text that is no config
UNREADABLE = (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError)


def checkpoint_to_resume(resume: str, work_dir: str) -> Path:
    """Return the path given by `--resume`, or for 'auto' the last checkpoint of the work dir.

    Raises:
        ValueError: if that checkpoint does not exist.
    """
    path = find_last_checkpoint(work_dir) if resume == "auto" else Path(resume)
    if path is None:
        aside = max(Path(work_dir).glob("before_*/"), default=None)
        moved = f" (those of the last training are in {aside})" if aside else ""
        raise ValueError(
            f"--resume: there is no checkpoint in {work_dir}{moved}; leave --resume out to start a "
            "new training, or give it the path of a checkpoint"
        )
    if not path.is_file():
        raise ValueError(f"--resume: no checkpoint at {path}; check the path")
    return path


def progress(cfg: Config, checkpoint: Mapping) -> tuple[str, int, int]:
    """Return the unit of the schedule, 'epoch' or 'iter', and how many are completed and planned.

    Raises:
        ValueError: if the checkpoint was not saved by a training, or is damaged.
    """
    unit = "epoch" if "max_epochs" in cfg.train_cfg else "iter"
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    if not isinstance(meta, Mapping) or unit not in meta or "message_hub" not in checkpoint:
        raise ValueError(
            "--resume: the checkpoint does not say how far its training got; to start a training "
            "from its weights, set load_from in the config"
        )
    numbers = meta.get("epoch"), meta.get("iter"), meta.get("seed") or 0
    hub = checkpoint["message_hub"]
    parts = [hub.get(name) if isinstance(hub, dict) else None for name in HUB]
    if not all(isinstance(number, Integral) for number in numbers):
        raise _damaged("epoch, iter and seed in its meta data are not all integers")
    if not all(isinstance(part, dict) for part in parts):
        raise _damaged(f"its message_hub has no dicts {', '.join(HUB)}")
    return unit, meta[unit], cfg.train_cfg[f"max_{unit}s"]


def adopt_settings(cfg: Config, checkpoint: Mapping) -> list[str]:
    """Copy the restored settings of a checkpoint into a config, and list the differences.

    Args:
        cfg: config of the resumed training, changed in place.
        checkpoint: content of the checkpoint file.

    Returns:
        a line for each setting that differs, which says whose value is used.

    Raises:
        ValueError: if the optimizers are of different types, since their states differ, or if the
            checkpoint names what is not registered, since mmengine would import and call it, or
            if its settings are damaged.
    """
    meta = checkpoint.get("meta") or {}
    if "cfg" not in meta:
        return ["the checkpoint does not say with which settings it was trained"]
    new, old = read_settings(cfg.pretty_text), _saved_settings(meta["cfg"])
    if not all(map(str.isidentifier, old)):
        raise _damaged(f"meta.cfg is not the text of a config (it sets {', '.join(old)})")
    # a seed drawn at random is not in the config
    old["randomness"] = dict(seed=meta.get("seed"))
    kinds = [undivided_type(_find(settings, OPTIMIZER)) for settings in (old, new)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"--resume: the checkpoint has the state of {kinds[0]}, from which the config's "
            f"{kinds[1]} cannot continue. Set optim_wrapper.optimizer.type={kinds[0]}, or leave "
            "--resume out and set load_from to start a new training from its weights"
        )
    if kinds[0] is not None:
        old_wrapper = old["optim_wrapper"]
        old_wrapper["optimizer"] = divided_like(_find(new, OPTIMIZER), old_wrapper["optimizer"])
    lines = []
    flat_old, flat_new = (dict(_flatten(settings)) for settings in (old, new))
    for key in sorted(flat_old.keys() | flat_new.keys()):
        values = [_show(flat.get(key)) for flat in (flat_old, flat_new)]
        if values[0] != values[1] and _is_among(key, COMPARED) and not _is_among(key, SPEED):
            used = "the checkpoint's" if _is_among(key, RESTORED) else "the config's"
            lines.append(
                f"--resume: {key} is {values[0]} in the checkpoint and {values[1]} in the config; "
                f"{used} is used"
            )
    for key, registry in RESTORED.items():
        if not runs_code():
            _require_registered(key, registry, old, new)
        _put(cfg, key, _find(old, key))
    return lines


def trained_batch_size(checkpoint: Mapping) -> int | None:
    """Return the images per process with which a checkpoint was trained, None if it does not say.

    Raises:
        ValueError: if its settings are damaged.
    """
    text = (checkpoint.get("meta") or {}).get("cfg")
    return None if text is None else _find(_saved_settings(text), "train_dataloader.batch_size")


def _saved_settings(text: str) -> dict[str, Any]:
    """Read the settings of a checkpoint; ValueError if they are damaged."""
    try:
        return read_settings(text)
    except UNREADABLE as error:
        raise _damaged(f"meta.cfg is not the text of a config ({error})") from error


def require_averaging(hooks: Iterable[Hook], checkpoint: Mapping) -> None:
    """Check that a training whose checkpoint has averaged weights continues to average them.

    The `state_dict` of such a checkpoint has the averages, and `ema_state_dict` the weights that
    the optimizer updates.

    Raises:
        ValueError: if the checkpoint has averages, and no hook exchanges them for the weights.
    """
    if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in hooks):
        raise ValueError(
            "--resume: the checkpoint has averages of the weights, from which the optimizer cannot "
            "continue, and the config no EMAHook, which would restore the weights. Add that hook, "
            "or leave --resume out and set load_from to start a new training from the averages"
        )


def read_settings(text: str) -> dict[str, Any]:
    """Parse the text of a config, without executing it as mmengine would."""
    assignments = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): _value(node.value) for node in assignments}


def _value(node: ast.expr) -> Any:
    """Evaluate an expression from the text of a config."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
        named = {word.arg: _value(word.value) for word in node.keywords}
        return dict(*map(_value, node.args)) | named
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(value) for key, value in pairs if key}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:  # a name or a call
        text = ast.unparse(node)
        return float(text) if text in ("inf", "-inf", "nan") else text


def _require_registered(key: str, registry: Registry | None, old: dict, new: dict) -> None:
    """Check that a restored setting names only what is registered: mmengine imports other names.

    Args:
        key: dotted key of the setting.
        registry: registry of what is built from it, or None if nothing is.
        old: settings of the checkpoint.
        new: settings of the config, whose own names are accepted as well.
    """
    name, scope = key.rpartition(".")[2], new.get("default_scope")
    if registry is None or scope not in registry.children:
        scope = None
    own = list(_kinds({name: _find(new, key)}, scope))
    for kind, kind_scope in _kinds({name: _find(old, key)}, scope):
        if (kind, kind_scope) not in own and not _is_registered(registry, kind, kind_scope):
            raise ValueError(
                f"--resume: {key} of the checkpoint names {kind!r}, which is not registered for it "
                "and may run code: resume only checkpoints that hb train has saved, or set "
                f"{key} in the config to the same"
            )


def _kinds(settings: Any, scope: str | None) -> Iterator[tuple[Any, str | None]]:
    """Yield each type or constructor that the settings name, with the scope of its registry."""
    if isinstance(settings, dict):
        scope = settings.get("_scope_", scope)
        for name, value in settings.items():
            if name not in ("type", "constructor"):
                yield from _kinds(value, scope)
            elif value is not None:
                yield value, scope
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _kinds(value, scope)


def _is_registered(registry: Registry | None, kind: Any, scope: Any) -> bool:
    """Return whether `kind` is a name in a registry or in that of its scope, no dotted path."""
    if registry is None or not isinstance(kind, str):
        return False
    prefix, name = registry.split_scope_key(kind)
    family = {"None": registry, registry.scope: registry, **registry.children}
    owner = family.get(str(prefix or scope))
    if owner is None:
        return False
    owner.import_from_location()
    return name in owner.module_dict or name in registry.module_dict


def _damaged(reason: str) -> ValueError:
    return ValueError(
        f"--resume: the checkpoint is damaged, {reason}: resume an earlier one, or set load_from "
        "in the config to start a new training from its weights"
    )


def _flatten(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting with its dotted key."""
    if isinstance(settings, dict):
        items = [*settings.items()]
    elif isinstance(settings, list | tuple):
        items = [*enumerate(settings)]
    else:
        items = []
    if not items:
        yield key, settings
    for name, value in items:
        yield from _flatten(value, f"{key}.{name}" if key else str(name))


def _is_among(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _find(settings: Any, key: str) -> Any:
    """Return the setting of a dotted key, or None."""
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def _show(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _put(cfg: Config, key: str, value: Any) -> None:
    """Set a dotted key, or remove it for None."""
    section, _, name = key.rpartition(".")
    if section and cfg.get(section) is None:
        cfg[section] = {}
    owner = cfg[section] if section else cfg
    if value is not None:
        owner[name] = value
    elif name in owner:
        owner.pop(name)
