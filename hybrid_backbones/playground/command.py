"""The command that serves the page: which models, until it is stopped."""

import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mmengine.logging import print_log

from ..checkpoints import PUBLISHED
from ..training.errors import stop_on_sigterm
from ..training.mini_models import QUICK, MiniModel, MiniTraining
from ..training.requirements import require_device
from ..training.run_config import read_config
from .models import Model, Models
from .page import build, private_uploads, require_port, serving


def read_models(args: Namespace) -> Models:
    """Read the pairs of config and checkpoint of the command line; nothing is loaded yet.

    Raises:
        ValueError: if one is missing or cannot be used.
    """
    if len(args.models) % 2:
        raise ValueError(
            f"expected pairs of CONFIG CHECKPOINT, got {len(args.models)} arguments, the last one "
            f"{args.models[-1]}"
        )
    models: list[Model] = []
    for config, checkpoint in zip(args.models[::2], args.models[1::2], strict=True):
        cfg = read_config(Namespace(**vars(args), config=config))
        is_address = checkpoint in PUBLISHED or ":" in checkpoint
        if not is_address and not Path(checkpoint).is_file():
            raise ValueError(
                f"no checkpoint at {checkpoint}: check the path; hb weights list names those "
                "that are published"
            )
        name = Path(config).stem
        if any(model.name == name for model in models):
            name = f"{name} ({checkpoint})"
        models.append(Model(name, cfg, checkpoint, args.device))
    return Models(models)


@contextmanager
def mini_models(device: str) -> Iterator[tuple[Models, MiniTraining]]:
    """Train the missing ones of a few models of the mini set, within the context."""
    minis = [MiniModel(name) for name in QUICK]
    training = MiniTraining(minis)
    models = Models(
        Model(mini.name, mini.cfg, partial(training.checkpoint, mini.name), device)
        for mini in minis
    )
    training.start()
    try:
        yield models, training
    finally:
        training.stop()


def playground(args: Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        args: models, port, device, mini, cfg_options.

    Raises:
        ValueError: for errors that the user can fix.
        KeyboardInterrupt: when it is stopped.
    """
    if args.cfg_options and not args.models:
        raise ValueError(
            "--cfg-options changes the configs of models that are given, and none is: give CONFIG "
            "CHECKPOINT, or leave it out"
        )
    require_device(args.device)
    require_port(args.port)
    stop_on_sigterm()
    if args.models:
        _serve(read_models(args), None, args.port)
    else:
        with mini_models(args.device) as (models, training):
            _serve(models, training, args.port)


def _serve(models: Models, training: MiniTraining | None, port: int) -> None:
    with private_uploads(), serving(build(models, training), port) as address:
        print_log(f"playground of {len(models)} models: open {address} (Ctrl-C stops it)")
        threading.Event().wait()
