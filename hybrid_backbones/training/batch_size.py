"""Batch size of a training from the command line: a number, or the largest that the GPU holds."""

import gc
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

from .known_errors import GPU_IS_FULL, NO_ENGINE
from .seeding import SeededIndex

AUTO = "auto"
# of the GPU's free memory; the rest is for fragments, and for larger samples than those tried
SHARE = 0.9
# number of training samples of which the heaviest is used
NUM_SAMPLES = 32
# messages of errors that a smaller batch does not have: of full memory, and of operators whose
# tensors have become too long for their indices
TOO_LARGE = re.compile(rf"{GPU_IS_FULL}|INT_MAX|32-bit index")


def parse_batch_size(text: str) -> int | str:
    """Parse the value of `--batch-size`.

    Raises:
        ArgumentTypeError: if it is neither a positive number nor 'auto'.
    """
    if text == AUTO:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a number of images per process or {AUTO}, got {text!r}")
    return int(text)


def set_batch_size(cfg: Config, asked: int | str, *, resumes: bool = False) -> str:
    """Set the batch size of a training, and let the learning rate follow it, in place.

    The learning rate is multiplied by the images per step over those that it was chosen for:
    `auto_scale_lr.base_batch_size`, or without it the config's own batch size.

    Args:
        cfg: config of the training.
        asked: images per process, or 'auto' for the largest number that the GPU holds.
        resumes: whether an earlier training continues, which has its batch size.

    Returns:
        line for the log.

    Raises:
        ValueError: if 'auto' cannot search, or the GPU does not hold a single image.
    """
    if asked == AUTO and resumes:
        raise ValueError(
            f"--batch-size {AUTO} is for the start of a training: with --resume, give the number "
            "that it logged there, --batch-size N"
        )
    before = cfg.train_dataloader.batch_size
    size = asked if isinstance(asked, int) else find_batch_size(cfg)
    cfg.train_dataloader.batch_size = size
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size", before)
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=base)
    how = (
        f"is the largest that fits in {SHARE:.0%} of the free memory"
        if asked == AUTO
        else "as asked"
    )
    rate = f"that of {base} images per step, scaled in proportion"
    return (
        f"--batch-size: {size} images per process {how}, {before} in the config; the learning rate "
        f"is {'that of the checkpoint' if resumes else rate}"
    )


def find_batch_size(cfg: Config) -> int:
    """Return the largest batch size of a training step that the GPU holds.

    Raises:
        ValueError: if there is no GPU, several processes, or it does not hold a single image.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            f"--batch-size {AUTO} needs a GPU, whose memory it fills, and PyTorch sees none here: "
            "give a number, --batch-size N"
        )
    if cfg.get("launcher", "none") != "none":
        raise ValueError(
            f"--batch-size {AUTO} searches in one process: run it without a launcher, then give "
            "the number that it logs, --batch-size N"
        )
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(
        SHARE * (free + torch.cuda.memory_reserved()) / total
    )
    try:
        return search(cfg, "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def search(cfg: Config, device: str) -> int:
    """Try training steps of a config with batches of different sizes on a device.

    Raises:
        ValueError: if a batch of one image does not fit.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        trial = Trial(cfg, heaviest_sample(dataset), device)
        size = largest_fitting(trial.fits, len(dataset))
    if not size:
        raise ValueError(
            f"--batch-size {AUTO}: {SHARE:.0%} of the GPU's free memory do not hold one image of "
            "this training: add --amp, set model.backbone.with_cp=True, or make the images smaller"
        )
    return size


def largest_fitting(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits, by doubling and bisection; 0 if none does.

    Args:
        fits: whether a number fits; if it does, all smaller ones do.
        most: largest number to try.
    """
    good, bad = 0, most + 1
    # batch normalisation of pooled features needs more than one image
    size = min(2, most)
    while bad - good > 1:
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, most) if bad > most else (good + bad) // 2
    return good


def heaviest_sample(dataset: BaseDataset) -> dict:
    """Return the largest image, with most objects, of some that are spread over a training set."""
    places = np.linspace(0, len(dataset) - 1, min(NUM_SAMPLES, len(dataset))).astype(int)
    samples = [dataset[SeededIndex(i, (0, int(i)))] for i in places]
    return max(samples, key=_weight)


def _weight(sample: dict) -> tuple[int, int]:
    objects = getattr(sample["data_samples"], "gt_instances", ())
    return sample["inputs"].numel(), len(objects)


class Trial:
    """Training steps on batches of copies of one sample, in a model that is thrown away.

    Args:
        cfg: config of the training.
        sample: sample of its data set.
        device: device of the model.
    """

    fitted = False

    def __init__(self, cfg: Config, sample: dict, device: str):
        self.sample = sample
        model, wrapper = deepcopy(cfg.model), deepcopy(cfg.optim_wrapper)
        if cfg.get("data_preprocessor"):
            model.setdefault("data_preprocessor", deepcopy(cfg.data_preprocessor))
        # weights stay as they are, and so do losses
        wrapper.optimizer.lr = 0.0
        wrapper.pop("accumulative_counts", None)
        self.device = device
        self.model = revert_sync_batchnorm(MODELS.build(model)).to(device).train()
        self.wrapper = build_optim_wrapper(self.model, wrapper)

    def step(self, size: int) -> None:
        """Train on a batch of this size, twice: the optimizer's state is there from the second."""
        if isinstance(self.wrapper, AmpOptimWrapper):
            # of scale 1, as steps whose gradients overflow are skipped; and a new one each time, as
            # an error leaves its scaler in the middle of a step
            self.wrapper.loss_scaler = torch.amp.GradScaler(self.device, init_scale=1.0)
        for _ in range(2):
            self.model.train_step(pseudo_collate(deepcopy([self.sample] * size)), self.wrapper)

    def fits(self, size: int) -> bool:
        """Return whether a batch of this size does not exhaust the memory."""
        fits = True
        try:
            self.step(size)
        except RuntimeError as error:
            fits = False
            is_known = isinstance(error, torch.OutOfMemoryError) or TOO_LARGE.search(str(error))
            # once a batch has fitted, the dtype is not the reason
            if not (is_known or (self.fitted and re.search(NO_ENGINE, str(error)))):
                raise
        self.fitted |= fits
        # only here, since an error that is handled holds on to the tensors of its calls
        self.wrapper.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        return fits
