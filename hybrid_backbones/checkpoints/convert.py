"""Conversion of published checkpoints to files that the hosts' own tools and inferencers take."""

import copy
import io
import uuid
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..settings import tested_metainfo
from .commands import match_file
from .fetch import fetch
from .load import load_trained
from .published import PUBLISHED, PublishedCheckpoint
from .read import dataset_meta, read_checkpoint


def recognise(checkpoint: str | Path) -> PublishedCheckpoint:
    """Return what is known of a published checkpoint, given by name or as a file.

    A file is recognised by its hash, or else by its own name.

    Raises:
        ValueError: if it is none of the published ones.
    """
    if str(checkpoint) in PUBLISHED:
        return PUBLISHED[str(checkpoint)]
    same, named = match_file(fetch(checkpoint))
    if not same + named:
        raise ValueError(
            f"{checkpoint} is no published checkpoint, by its hash or by its name: give its config "
            "with --config, or name the file as hb weights list does"
        )
    return PUBLISHED[[*same, *named][0]]


def convert(cfg: Config, checkpoint: str | Path, out: str | Path) -> None:
    """Write a checkpoint under our names, with the classes, their colours and the config.

    What it holds beside the weights is where mmengine's checkpoints have it, so that inferencers
    find it, without a config as well.

    Args:
        cfg: config of the model that the checkpoint is of.
        checkpoint: whatever :func:`fetch` takes.
        out: file to write, which must not exist.

    Raises:
        ValueError: if the checkpoint does not fit the model, it names no classes and the config has
            no test set, or the file exists.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists, and is not overwritten: choose another name, or remove it")
    content = read_checkpoint(checkpoint)
    init_default_scope(cfg.default_scope)
    # the hosts change what they build from
    settings = copy.deepcopy(cfg.model)
    # mmpretrain's configs define it at the top level
    settings.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    model = MODELS.build(settings)
    load_trained(model, content)
    described = dataset_meta(content) or _dataset_meta(cfg)
    # as `meta.config`, mmengine would run it on resuming
    meta = dict(dataset_meta=described, config_name=Path(cfg.filename).stem, cfg=cfg.pretty_text)
    hub = dict(runtime_info=dict(cfg=cfg.pretty_text), log_scalars={}, resumed_keys={})
    _write(dict(meta=meta, message_hub=hub, state_dict=model.state_dict()), out)


def _dataset_meta(cfg: Config) -> dict:
    """Return the names and the colours of the classes of a config's test set."""
    found = tested_metainfo(cfg)
    return {key: found[key] for key in ("classes", "palette") if key in found}


def _write(content: dict, out: Path) -> None:
    """Write a checkpoint, which appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        draft.write_bytes(buffer.getbuffer())
        draft.rename(out)
    finally:
        draft.unlink(missing_ok=True)
