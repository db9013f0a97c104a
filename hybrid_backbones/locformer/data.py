"""Images with a sketch of one category, and the boxes of all its objects.

Tripathi et al., "Query-guided attention in vision transformers for localizing objects using a
single sketch", WACV 2024, https://arxiv.org/abs/2303.08784: photographs and boxes come from COCO,
sketches from QuickDraw. An item asks for one category, drawn uniformly from those that the image
shows; everything else in the image is background, and the category asked for is label 0.
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs, Resize
from mmengine.registry import DATASETS, TRANSFORMS

from ..datasets.coco import CheckedCocoDataset
from .quickdraw import CANVAS, PARTS, DrawingFile, find_drawings, render_drawing

# what COCO and QuickDraw share, in the order of the publication, which the split counts by
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
# the one class of the data set, as pictures and checkpoints show it
SKETCHED = dict(classes=("sketched",), palette=[(220, 20, 60)])


def split_categories(categories: Sequence[str], subset: str) -> tuple[str, ...]:
    """Return the categories of a subset: every fourth is unseen, beginning with the first.

    Raises:
        ValueError: `subset` is none of 'all', 'seen' and 'unseen'.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset is one of {SUBSETS}, got {subset!r}")
    return tuple(
        name
        for i, name in enumerate(categories)
        if subset == "all" or (i % 4 == 0) == (subset == "unseen")
    )


@DATASETS.register_module()
class SketchCocoDataset(CheckedCocoDataset):
    """Yield an image, sketches of one of its categories, and the boxes of that category.

    Training draws category and sketches anew each time, from the sampler's
    :class:`~hybrid_backbones.training.seeding.SeededIndex`; evaluation always takes the same for an
    image. Images without a category of the subset are left out, and so are crowds.

    Args:
        sketch_root: folder of QuickDraw's files, or of their folder ``ndjson``.
        subset: 'all', 'seen' or 'unseen' categories; boxes of others are background. Every fourth
            category of the list is unseen.
        drawings: part of each file to draw the sketches from: 'train', 'valid' or 'test'.
        num_sketches: different sketches per item; if a file has fewer, some come twice.
        recognized_only: leave out drawings that QuickDraw's game did not recognise.
        exclude: categories to leave out; the others keep their place in the list.
        wrong_sketch: show a sketch of another category than the boxes are of, to measure how much
            the sketch matters; evaluation only.
        seed: of the choices in evaluation.
        metainfo: ``classes`` replaces the list of 56 categories that COCO and QuickDraw share.

    Raises:
        ValueError: for an unknown category, missing or damaged files, or no image left.
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
            raise ValueError(f"exclude names the unknown categories {unknown}, of {categories}")
        if drawings not in PARTS:
            raise ValueError(f"drawings is one of {PARTS}, got {drawings!r}")
        if num_sketches < 1:
            raise ValueError(f"expected at least one sketch, got {num_sketches=}")
        if wrong_sketch and not test_mode:
            raise ValueError("wrong_sketch is for evaluation: training would learn to ignore it")
        self.categories = tuple(
            name for name in split_categories(categories, subset) if name not in exclude
        )
        if len(self.categories) < 1 + wrong_sketch:
            raise ValueError(f"too few categories are left: {self.categories}")
        self.num_sketches, self.wrong_sketch, self.seed = num_sketches, wrong_sketch, seed
        self.drawings = {
            name: DrawingFile(
                find_drawings(sketch_root, name), drawings, recognized_only=recognized_only
            )
            for name in self.categories
        }
        super().__init__(
            *args, metainfo=dict(classes=self.categories), test_mode=test_mode, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """Read the annotation file; from now on the data set has one class."""
        data_list = super().load_data_list()
        self._metainfo.update(SKETCHED, categories=self.categories)
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Parse the annotations of an image: no crowds, one label, COCO's category beside it."""
        info = super().parse_data_info(raw_data_info)
        info["instances"] = [one for one in info["instances"] if not one["ignore_flag"]]
        for instance in info["instances"]:
            instance["category_id"] = self.cat_ids[instance["bbox_label"]]
            instance["category"] = self.coco.cats[instance["category_id"]]["name"]
            instance["bbox_label"] = 0
        return info

    def filter_data(self) -> list[dict]:
        """Leave out images that show no category of the subset, in evaluation too."""
        data_list = [info for info in super().filter_data() if info["instances"]]
        if not data_list:
            raise ValueError(f"{self.ann_file} has no image with one of {self.categories}")
        return data_list

    def prepare_data(self, idx: int) -> dict:
        """Choose a category and sketches of it, and run the pipeline.

        The pipeline gets ``category``, ``category_id``, the ``instances`` of it, and ``drawings``,
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
            return np.random.default_rng((self.seed, info["img_id"]))
        # without a seeded sampler mmengine seeds numpy's own generator in each worker
        seed = getattr(idx, "seed", None) or np.random.randint(2**31, size=4)
        return np.random.default_rng(seed)


@TRANSFORMS.register_module()
class RenderSketch(BaseTransform):
    """Render ``drawings`` to ``sketches``, white on black, uint8 (k, size, size).

    Args:
        size, line_width, antialias, fit: see :func:`~.quickdraw.render_drawing`, whose defaults are
            the published rendering.
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
            raise ValueError(f"expected positive pixels, got {size=}, {line_width=}")
        self.size = size
        self.settings = dict(line_width=line_width, antialias=antialias, fit=fit)

    def transform(self, results: dict) -> dict:
        """Add ``sketches``."""
        rendered = [render_drawing(one, self.size, **self.settings) for one in results["drawings"]]
        results["sketches"] = np.stack(rendered)
        return results


@TRANSFORMS.register_module()
class RoundedResize(Resize):
    """Resize as mmdet does in proportion, then round both sides down to multiples of a divisor.

    The published loader does so; it changes the proportions a little.

    Args:
        divisor: in pixels.
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
    """Pack an item as mmdet does, with ``sketches``, uint8 (k, 3, size, size), as one more input.

    Args:
        meta_keys: what the data sample tells of the image.
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
        """Return inputs, sketches and the data sample."""
        packed = super().transform(results)
        sketches = torch.from_numpy(np.ascontiguousarray(results["sketches"]))  # (k, H, W)
        packed["sketches"] = sketches[:, None].repeat(1, 3, 1, 1)
        return packed
