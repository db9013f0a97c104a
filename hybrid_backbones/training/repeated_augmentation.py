"""Repeated augmentation: several differently augmented copies of each image in an epoch."""

from collections.abc import Iterator

from mmpretrain.datasets import RepeatAugSampler
from mmpretrain.registry import DATA_SAMPLERS

from .seeding import SeededIndex


@DATA_SAMPLERS.register_module()
class SeededRepeatAugSampler(RepeatAugSampler):
    """mmpretrain's RepeatAugSampler with a seed for each sample (:class:`SeededIndex`).

    Hoffer et al., "Augment your batch", CVPR 2020, https://arxiv.org/abs/1901.09335: every image
    is drawn three times, and an epoch covers a third of the images.
    """

    def __iter__(self) -> Iterator[SeededIndex]:
        for n, index in enumerate(super().__iter__()):
            yield SeededIndex(index, (self.seed, self.epoch, n * self.world_size + self.rank))
