"""Dataset and transforms of LocFormer: an image, sketches of one category, and its boxes.

As published (see `detector.py`), photographs and boxes come from COCO, sketches from QuickDraw. An
item has one target category, sampled uniformly from those in the image; its objects have label 0,
and objects of other categories are background.
"""

import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs, Resize
from mmengine.registry import DATASETS, TRANSFORMS

from ..datasets.coco import CheckedCocoDataset
from .quickdraw import CANVAS, PARTS, DrawingFile, find_drawings, render_drawing

# categories in both COCO and QuickDraw; their published order defines the seen/unseen split
SHARED_CATEGORIES = (
    *("elephant", "bear", "cat", "zebra", "bus", "horse", "giraffe", "airplane", "bed", "dog"),
    *("scissors", "train", "sandwich", "pizza", "cow", "broccoli", "umbrella", "sheep", "bird"),
    *("stop sign", "toothbrush", "bicycle", "hot dog", "laptop", "toaster", "microwave", "banana"),
    *("baseball bat", "donut", "couch", "keyboard", "cake", "oven", "carrot", "bench", "suitcase"),
    *("fire hydrant", "fork", "chair", "wine glass", "apple", "truck", "cell phone", "cup", "car"),
    *("knife", "toilet", "clock", "backpack", "spoon", "vase", "book", "skateboard", "sink"),
    *("mouse", "traffic light"),
)
SUBSETS = ("all", "seen", "unseen")
# the single class of the dataset, for visualisation and checkpoints
SKETCHED = dict(classes=("sketched",), palette=[(220, 20, 60)])


def split_categories(categories: Sequence[str], subset: str) -> tuple[str, ...]:
    """Return the categories of a subset: every fourth is unseen, starting with the first.

    Raises:
        ValueError: if `subset` is not 'all', 'seen' or 'unseen'.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset must be one of {SUBSETS}, got {subset!r}")
    return tuple(
        name
        for i, name in enumerate(categories)
        if subset == "all" or (i % 4 == 0) == (subset == "unseen")
    )


def _open_drawings(folder: str, part: str, recognized_only: bool, name: str) -> DrawingFile:
    return DrawingFile(find_drawings(folder, name), part, recognized_only=recognized_only)


@DATASETS.register_module()
class SketchCocoDataset(CheckedCocoDataset):
    """COCO images with sketches of one of their categories and the boxes of that category.

    In training, category and sketches are sampled anew each time, seeded by the sampler's
    :class:`~hybrid_backbones.training.seeding.SeededIndex`; in evaluation they are fixed per image.
    Images without a category of the subset are dropped, as are crowd annotations.

    Args:
        sketch_root: folder with QuickDraw's files, directly or in a subfolder ``ndjson``.
        subset: 'all', 'seen' or 'unseen' categories, of which every fourth is unseen; objects of
            other categories are background.
        drawings: part of each QuickDraw file to sample from: 'train', 'valid' or 'test'.
        num_sketches: number of sketches per item; they repeat only if the file has fewer.
        recognized_only: whether to drop drawings that QuickDraw's game did not recognise.
        exclude: categories to drop; the subsets of the others stay the same.
        wrong_sketch: whether to show a sketch of another category than that of the boxes, to
            measure how much the sketch matters; evaluation only.
        seed: seed of the sampling in evaluation.
        metainfo: ``classes`` replaces the list of 56 categories in both COCO and QuickDraw.

    Raises:
        ValueError: if a category is unknown, a file is missing or damaged, or no image remains.
    """

    def __init__(
        self,
        *args,
        sketch_root: str,
        subset: str = "all",
        drawings: str = "train",
        num_sketches: int = 1,
        recognized_only: bool = True,
        exclude: Sequence[str] = (),
        wrong_sketch: bool = False,
        seed: int = 14,
        metainfo: dict | None = None,
        test_mode: bool = False,
        **kwargs,
    ):
        categories = tuple((metainfo or {}).get("classes", SHARED_CATEGORIES))
        if unknown := sorted(set(exclude).difference(categories)):
            raise ValueError(f"exclude has unknown categories {unknown}, not in {categories}")
        if drawings not in PARTS:
            raise ValueError(f"drawings must be one of {PARTS}, got {drawings!r}")
        if num_sketches < 1:
            raise ValueError(f"num_sketches must be at least 1, got {num_sketches=}")
        if wrong_sketch and not test_mode:
            raise ValueError(
                "wrong_sketch is for evaluation only: training would learn to ignore sketches"
            )
        self.categories = tuple(
            name for name in split_categories(categories, subset) if name not in exclude
        )
        if len(self.categories) < 1 + wrong_sketch:
            raise ValueError(f"too few categories are left: {self.categories}")
        self.num_sketches, self.wrong_sketch, self.seed = num_sketches, wrong_sketch, seed
        self._open = partial(_open_drawings, sketch_root, drawings, recognized_only)
        super().__init__(
            *args, metainfo=dict(classes=self.categories), test_mode=test_mode, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """Read drawings and annotations, then reduce the metainfo to a single class."""
        # here, since a dataset that is built for its metainfo alone needs no files
        self.drawings = {name: self._open(name) for name in self.categories}
        data_list = super().load_data_list()
        self._metainfo.update(SKETCHED, categories=self.categories)
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Parse an image: drop crowds, set all labels to 0 and keep COCO's category beside them."""
        info = super().parse_data_info(raw_data_info)
        info["instances"] = [one for one in info["instances"] if not one["ignore_flag"]]
        for instance in info["instances"]:
            instance["category_id"] = self.cat_ids[instance["bbox_label"]]
            instance["category"] = self.coco.cats[instance["category_id"]]["name"]
            instance["bbox_label"] = 0
        return info

    def filter_data(self) -> list[dict]:
        """Drop images without a category of the subset, in training and evaluation."""
        data_list = [info for info in super().filter_data() if info["instances"]]
        if not data_list:
            raise ValueError(f"{self.ann_file} has no image with one of {self.categories}")
        return data_list

    def prepare_data(self, idx: int) -> dict:
        """Sample a category and sketches of it, and run the pipeline.

        The pipeline receives ``category``, ``category_id``, its ``instances``, and ``drawings``,
        the strokes of each sketch.
        """
        info = self.get_data_info(idx)
        rng = self._generator(idx, info)
        names = sorted({instance["category"] for instance in info["instances"]})
        category = names[rng.integers(len(names))]
        info["instances"] = [one for one in info["instances"] if one["category"] == category]
        info["category"] = category
        info["category_id"] = info["instances"][0]["category_id"]
        if self.wrong_sketch:
            others = [name for name in self.categories if name != category]
            category = others[rng.integers(len(others))]
        choice = self.drawings[category]
        chosen = rng.choice(len(choice), self.num_sketches, replace=len(choice) < self.num_sketches)
        info["drawings"] = [choice[i] for i in chosen]
        return self.pipeline(info)

    def _generator(self, idx: int, info: dict) -> np.random.Generator:
        if self.test_mode:
            image = info["img_id"]
            # an id may also be text or negative
            if not isinstance(image, int) or image < 0:
                image = zlib.crc32(str(image).encode())
            return np.random.default_rng((self.seed, image))
        # without a seeded sampler, use numpy's global generator, which mmengine seeds per worker
        seed = getattr(idx, "seed", None) or np.random.randint(2**31, size=4)
        return np.random.default_rng(seed)


@TRANSFORMS.register_module()
class RenderSketch(BaseTransform):
    """Transform that renders ``drawings`` to ``sketches``, white on black, uint8 (Q, size, size).

    An item that already has ``sketches`` passes unchanged.

    Args:
        size, line_width, antialias, fit: see :func:`~.quickdraw.render_drawing`; the defaults give
            the published rendering.

    Raises:
        ValueError: if an item has neither drawings nor sketches.
    """

    def __init__(
        self,
        size: int = CANVAS,
        *,
        line_width: int = 1,
        antialias: bool = False,
        fit: bool = False,
    ):
        if size < 1 or line_width < 1:
            raise ValueError(f"size and line_width must be positive, got {size=}, {line_width=}")
        self.render = partial(
            render_drawing, size=size, line_width=line_width, antialias=antialias, fit=fit
        )

    def transform(self, results: dict) -> dict:
        """Add ``sketches`` to the item."""
        if "sketches" in results:
            return results
        if "drawings" not in results:
            raise ValueError(
                "this model searches by sketch, but the item has none: pass "
                "dict(img_path=..., sketches=...) with the array that "
                "hybrid_backbones.locformer.demo.read_sketch returns"
            )
        results["sketches"] = np.stack([self.render(one) for one in results["drawings"]])
        return results


@TRANSFORMS.register_module()
class RoundedResize(Resize):
    """Resize that keeps the ratio as in mmdet, then rounds both sides down to a multiple.

    The published data loader does the same; it changes the aspect ratio slightly.

    Args:
        divisor: number of pixels of which both sides become multiples.
    """

    def __init__(self, *args, divisor: int = 16, **kwargs):
        super().__init__(*args, keep_ratio=False, **kwargs)
        self.divisor = divisor

    def _resize_img(self, results: dict) -> None:
        height, width = results["img"].shape[:2]
        ratio = min(
            max(results["scale"]) / max(height, width), min(results["scale"]) / min(height, width)
        )
        results["scale"] = tuple(
            max(int(side * ratio + 0.5) // self.divisor, 1) * self.divisor
            for side in (width, height)
        )
        super()._resize_img(results)


@TRANSFORMS.register_module()
class PackSketchInputs(PackDetInputs):
    """Transform that packs an item as mmdet does and adds ``sketches``, uint8 (Q, 3, size, size).

    Args:
        meta_keys: keys of the item to store as meta data of the data sample.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip"),
            *("flip_direction", "category_id", "category"),
        ),
    ):
        super().__init__(meta_keys)

    def transform(self, results: dict) -> dict:
        """Return a dict of inputs, sketches and the data sample."""
        packed = super().transform(results)
        sketches = torch.from_numpy(np.ascontiguousarray(results["sketches"]))  # (Q, H, W)
        packed["sketches"] = sketches[:, None].repeat(1, 3, 1, 1)
        return packed
