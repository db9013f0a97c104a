"""Randomness without memory, so that an interrupted training continues bit for bit.

Every random number of a training is a function of the seed and of a place in the training: what the
model draws, of the iteration; what happens to a sample, of how many samples were drawn before it by
all processes together. So no generator's state has to be saved, and neither the number of loading
workers nor that of processes changes what a sample looks like.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, TRANSFORMS


class SeededIndex(int):
    """The index of a sample, with the seed for what happens to this drawing of it."""

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...] = ()):
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self):
        return SeededIndex, (int(self), self.seed)

    def __deepcopy__(self, memo):
        return self


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """Yield what mmengine's DefaultSampler yields, as :class:`SeededIndex`."""

    def __iter__(self) -> Iterator[SeededIndex]:
        for n, index in enumerate(super().__iter__()):
            yield SeededIndex(index, (self.seed, self.epoch, n * self.world_size + self.rank))


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """Yield what mmengine's InfiniteSampler yields, as :class:`SeededIndex`."""

    def _indices_of_rank(self) -> Iterator[SeededIndex]:
        for n, index in enumerate(super()._indices_of_rank()):
            yield SeededIndex(index, (self.seed, 0, n * self.world_size + self.rank))


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Seed all generators for one sample; the first transform of a training pipeline.

    Needs `SeededSampler` or `SeededInfiniteSampler`.
    """

    def transform(self, results: dict) -> dict:
        """Seed from ``results['sample_idx']``, which datasets copy from the sampler."""
        draw = results.get("sample_idx")
        if not isinstance(draw, SeededIndex):
            raise ValueError(
                "SeedSample needs sampler=dict(type='SeededSampler') or 'SeededInfiniteSampler', "
                f"got a sample index of type {type(draw).__name__}"
            )
        seed_all(draw.seed)
        return results


@HOOKS.register_module()
class SeedIterationsHook(Hook):
    """Seed all generators before each training iteration, differently on each process."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Seed from the run's seed, the iteration and the rank."""
        seed_all((runner.seed, runner.iter, get_rank()))


def seed_all(entropy: tuple[int, ...]) -> None:
    """Seed Python's, numpy's and torch's generators, each with its own hash of `entropy`."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))
