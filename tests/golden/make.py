"""Make golden files: fingerprints of what a network computes with the weights that fill.py derives.

The format is the one of the files here; tools/make_golden.py is the command.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .fill import fill_, fingerprint, make_input


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
    recorded: dict[str, Any] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: recorded.update({name: output})
        )
        for name in features
    ]
    with torch.no_grad():
        returned = network(make_input(shape, seed))
    for hook in hooks:
        hook.remove()
    case = dict(shape=list(shape), seed=seed)
    if not features:
        return case | dict(features=[*_fingerprints(returned)])
    if idle := [name for name in features if name not in recorded]:
        raise ValueError(f"the network does not call its module {', '.join(idle)}")
    maps = [recorded[name] for name in features]
    return case | dict(features=[*_fingerprints(maps)], logits=fingerprint(returned))


def _fingerprints(outputs: Any) -> Iterator[dict]:
    """Fingerprint the tensors of nested lists, tuples and dicts, in order."""
    if isinstance(outputs, Tensor):
        if not outputs.isfinite().all():
            raise ValueError(f"an output of shape {tuple(outputs.shape)} is not finite")
        yield fingerprint(outputs)
        return
    for output in outputs.values() if isinstance(outputs, dict) else outputs:
        yield from _fingerprints(output)
