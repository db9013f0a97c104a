"""Stateless randomness, so that an interrupted training resumes bit for bit.

Every random number of a training is a function of the seed and of a position in the training: in
the model, of the iteration; in the augmentation of a sample, of the number of samples that all
processes together drew before it. So no generator state has to be saved, and neither the number of
dataloader workers nor the number of processes affects a sample.
"""

import random
from collections.abc import Iterator
from contextvars import ContextVar
from typing import ClassVar

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, TRANSFORMS

# whether samples may come without a sampler, as in tools that browse a data set
BROWSING = ContextVar("BROWSING", default=False)


class SeededIndex(int):
    """Index of a sample, with the seed for the augmentation of this draw.

    It keeps the seed where a data set that repeats or concatenates others computes their index.
    """

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...] = ()):
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self):
        return SeededIndex, (int(self), self.seed)

    def __deepcopy__(self, memo):
        return self

    def __mod__(self, length: int) -> "SeededIndex":
        return SeededIndex(int(self) % length, self.seed)

    def __sub__(self, offset: int) -> "SeededIndex":
        return SeededIndex(int(self) - offset, self.seed)


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's DefaultSampler with a seed for each sample (:class:`SeededIndex`)."""

    def __iter__(self) -> Iterator[SeededIndex]:
        for n, index in enumerate(super().__iter__()):
            yield SeededIndex(index, (self.seed, self.epoch, n * self.world_size + self.rank))


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """mmengine's InfiniteSampler with a seed for each sample (:class:`SeededIndex`)."""

    def _indices_of_rank(self) -> Iterator[SeededIndex]:
        for n, index in enumerate(super()._indices_of_rank()):
            yield SeededIndex(index, (self.seed, 0, n * self.world_size + self.rank))


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Transform that seeds all generators for one sample; comes first in a training pipeline.

    Requires `SeededSampler` or `SeededInfiniteSampler`; with `BROWSING`, samples of other samplers
    pass without a seed. Further samples of the same draw, such as those that replace one without
    objects or are mixed into it, are seeded from the draw, too.
    """

    # what seeded the last sample of this process, and with which seed
    last: ClassVar[tuple["SeedSample | None", tuple[int, ...]]] = None, ()

    def transform(self, results: dict) -> dict:
        """Seed from ``results['sample_idx']``, which datasets copy from the sampler."""
        draw = results.get("sample_idx")
        owner, last = SeedSample.last
        if isinstance(draw, SeededIndex):
            self._seed(draw.seed)
        # only within a draw a data set asks itself for another sample
        elif owner is self and isinstance(draw, int | np.integer):
            self._seed((*last, int(draw)))
        elif not BROWSING.get():
            raise ValueError(
                "SeedSample needs sampler=dict(type='SeededSampler') or 'SeededInfiniteSampler', "
                "and around the data set nothing but RepeatDataset, ConcatDataset, or, of a single "
                f"one, MultiImageMixDataset; got a sample index of type {type(draw).__name__}"
            )
        return results

    def _seed(self, seed: tuple[int, ...]) -> None:
        SeedSample.last = self, seed
        seed_all(seed)


@HOOKS.register_module()
class SeedIterationsHook(Hook):
    """Hook that seeds all generators before each iteration, differently in each process."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Seed from the run's seed, the iteration and the rank."""
        seed_all((runner.seed, runner.iter, get_rank()))


def seed_all(entropy: tuple[int, ...]) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, each with another hash of `entropy`."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))
