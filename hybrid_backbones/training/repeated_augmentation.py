"""Repeated augmentation: each picture of an epoch several times, differently augmented."""

from collections.abc import Iterator

from mmpretrain.datasets import RepeatAugSampler
from mmpretrain.registry import DATA_SAMPLERS

from .seeding import SeededIndex


@DATA_SAMPLERS.register_module()
class SeededRepeatAugSampler(RepeatAugSampler):
    """Yield what mmpretrain's RepeatAugSampler yields, as :class:`SeededIndex`.

    Hoffer et al., "Augment your batch", CVPR 2020, https://arxiv.org/abs/1901.09335: every picture
    comes three times, a third of the pictures in each epoch.
    """

    def __iter__(self) -> Iterator[SeededIndex]:
        for n, index in enumerate(super().__iter__()):
            yield SeededIndex(index, (self.seed, self.epoch, n * self.world_size + self.rank))
