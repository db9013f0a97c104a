"""Images of noise and what damages them, for tests of the inspection of data sets."""

import numpy as np

HEIGHT, WIDTH = 20, 30


def noise(shape=(HEIGHT, WIDTH, 3), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
