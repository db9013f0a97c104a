"""COCO annotations, checked: what mmdet would pass over in silence is an error here."""

import json
from collections.abc import Sequence
from functools import partial

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.registry import DATASETS

SECTIONS = ("images", "annotations", "categories")


class CheckedCOCO(COCO):
    """pycocotools' index of an annotation file, which is what it should be.

    Args:
        annotation_file: path of the file.
        classes: names that must be among its categories.
        allow_others: whether it may have more.

    Raises:
        ValueError: names the file and what is wrong in it.
    """

    def __init__(self, annotation_file: str, classes: Sequence[str], allow_others: bool):
        self.file = annotation_file
        try:
            super().__init__(annotation_file)
        except FileNotFoundError as error:
            raise ValueError(f"annotation file {annotation_file} is missing") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._malformed(f"it is not JSON ({error})") from error
        except (KeyError, TypeError, AssertionError) as error:
            raise self._malformed(f"{type(error).__name__}: {error}") from error
        if absent := [section for section in SECTIONS if section not in self.dataset]:
            raise self._malformed(f"no {', '.join(absent)}")
        self._require_known_references()
        self._require_categories(classes, allow_others)

    def _require_known_references(self) -> None:
        for key, known in (("category_id", self.cats), ("image_id", self.imgs)):
            used = {annotation[key] for annotation in self.anns.values()}
            if unknown := sorted(used - known.keys()):
                raise self._malformed(f"annotations with {key} {unknown[:5]}, which it lacks")

    def _require_categories(self, classes: Sequence[str], allow_others: bool) -> None:
        names = {category["name"] for category in self.cats.values()}
        missing = [name for name in classes if name not in names]
        others = [] if allow_others else sorted(names.difference(classes))
        if missing or others:
            raise ValueError(
                f"annotation file {self.file} has other categories than the config: "
                f"{len(missing)} missing {missing[:5]}, {len(others)} unknown {others[:5]}; set "
                "metainfo=dict(classes=...) of the datasets and num_classes of the heads to yours"
            )

    def _malformed(self, what: str) -> ValueError:
        return ValueError(
            f"annotation file {self.file} is malformed: {what}; expected COCO's format with "
            f"{', '.join(SECTIONS)}"
        )


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """Read COCO annotations as mmdet does, where they are what the config expects.

    Raises:
        ValueError: names the annotation file that is missing or malformed, that lacks a class of
            the config, or that has a category which the config does not know. With
            ``metainfo=dict(classes=...)`` the file may have more than these.
    """

    def __init__(self, *args, metainfo: dict | None = None, **kwargs):
        self._chooses_classes = metainfo is not None and "classes" in metainfo
        super().__init__(*args, metainfo=metainfo, **kwargs)

    @property
    def COCOAPI(self):  # noqa: N802 - mmdet's name for what reads the file
        """The reader that mmdet calls with the path."""
        return partial(
            CheckedCOCO,
            classes=self.metainfo["classes"],
            allow_others=self._chooses_classes,
        )

    def load_data_list(self) -> list[dict]:
        """Read the annotation file."""
        try:
            return super().load_data_list()
        except (KeyError, TypeError, AssertionError) as error:
            raise ValueError(
                f"annotation file {self.ann_file} is malformed: {type(error).__name__}: {error}"
            ) from error
