"""Make golden files: fingerprints of what a network computes with the weights that fill.py derives.

The format is the one of the files here; tools/make_golden.py is the command.
"""

import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

import hybrid_backbones  # noqa: F401

from .fill import fill_, fingerprint, make_input


def build(network: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network from its import path, or the backbone of a config file.

    Args:
        network: import path of a class or function, or the config file
        arguments: keyword arguments of the network, or options of the config
    """
    if not network.endswith(".py"):
        return pkgutil.resolve_name(network)(**arguments)
    cfg = Config.fromfile(network)
    cfg.merge_from_dict(arguments)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        return MODELS.build(cfg.model.backbone)


def describe(
    network: nn.Module,
    shapes: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    features: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> dict[str, Any]:
    """Fill a network with derived weights, run it in evaluation mode and fingerprint its outputs.

    Args:
        network: network on images, whose state dict is overwritten
        shapes: shape of the input of each case, (B, C, H, W)
        seed: seed of every input
        features: names of the modules whose outputs are the features; the network then returns its
            logits. Without names, what the network returns are the features.
        skip: endings of names of entries that keep the value they have, such as computed masks
    """
    if unknown := set(features) - dict(network.named_modules()).keys():
        raise ValueError(f"there is no module {', '.join(sorted(unknown))}")
    fill_(network.eval(), skip=skip)
    entries = [
        [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in network.state_dict().items()
    ]
    return dict(
        entries=entries,
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        norm_eps={name: m.eps for name, m in network.named_modules() if hasattr(m, "eps")},
        skip=list(skip),
        cases=[_run(network, shape, seed, features) for shape in shapes],
    )


def _run(network: nn.Module, shape: Sequence[int], seed: int, features: Sequence[str]) -> dict:
    recorded: dict[str, list[dict]] = {}
    # fingerprints are taken in the hooks, as later modules may change an output in place
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: recorded.update({name: _fingerprints(output)})
        )
        for name in features
    ]
    with torch.no_grad():
        returned = network(make_input(shape, seed))
    for hook in hooks:
        hook.remove()
    case = dict(shape=list(shape), seed=seed)
    if not features:
        return case | dict(features=_fingerprints(returned))
    if idle := [name for name in features if name not in recorded]:
        raise ValueError(f"the network does not call its module {', '.join(idle)}")
    (logits,) = _fingerprints(returned)
    maps = [one for name in features for one in recorded[name]]
    return case | dict(features=maps, logits=logits)


def _fingerprints(outputs: Any) -> list[dict]:
    """Fingerprint the tensors of nested lists, tuples and dicts, in order."""
    if not isinstance(outputs, Tensor):
        nested = outputs.values() if isinstance(outputs, dict) else outputs
        return [one for output in nested for one in _fingerprints(output)]
    if not outputs.isfinite().all():
        raise ValueError(f"an output of shape {tuple(outputs.shape)} is not finite")
    return [fingerprint(outputs)]
