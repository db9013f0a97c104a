"""COCO datasets with checked annotations; mmdet ignores mistakes or fails with unclear errors."""

import logging
import math
from collections.abc import Sequence
from functools import partial

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from .coco_checks import (
    BOX_CHECKS,
    LEFT_OUT,
    MASK_CHECKS,
    REFUSED,
    Finding,
    are_numbers,
    consequence,
    find_faults,
)
from .palette import palette_for

IDS, NUMBERS = (int, str), (int, float)
# the kind of entry in each section, and the fields that it must have
SECTIONS = dict(
    images=("image", dict(id=IDS, file_name=str, width=NUMBERS, height=NUMBERS)),
    annotations=(
        "annotation",
        dict(id=IDS, image_id=IDS, category_id=IDS, bbox=list, area=NUMBERS),
    ),
    categories=("category", dict(id=IDS, name=str)),
)


class CheckedCOCO(COCO):
    """pycocotools' index of an annotation file, with checks.

    Unusable annotations are marked ``ignore``, so that mmdet skips them; one warning counts them
    and names the first annotation with each fault.

    Args:
        annotation_file: path of the annotation file.
        classes: names of the categories that the file must have.
        allow_others: whether the file may have other categories.
        with_masks: whether masks are used, and therefore checked.
        evaluates: whether a metric also reads the file; a metric skips no annotations.

    Raises:
        ValueError: names the file and its fault.
    """

    def __init__(
        self,
        annotation_file: str,
        classes: Sequence[str],
        allow_others: bool,
        *,
        with_masks: bool = False,
        evaluates: bool = False,
    ):
        self.file, self.evaluates, self.was_read = annotation_file, evaluates, False
        try:
            super().__init__(annotation_file)
        except FileNotFoundError as error:
            raise ValueError(f"annotation file {annotation_file} is missing") from error
        except (ValueError, RecursionError) as error:
            if self.was_read:
                raise
            raise self._malformed(f"it is not JSON ({error})") from error
        except AssertionError as error:
            raise self._malformed(str(error)) from error
        self._require_known_references()
        self._require_categories(classes, allow_others)
        self._check_annotations(classes, with_masks)

    def createIndex(self) -> None:  # noqa: N802 - pycocotools calls it with the file's contents
        """Check that each entry has its fields and a unique id, then index the contents."""
        self.was_read = True
        if self.evaluates:
            # COCO's test images have none
            self.dataset.setdefault("annotations", [])
        for section, (kind, fields) in SECTIONS.items():
            entries = self.dataset.get(section)
            if not isinstance(entries, list):
                raise self._malformed(f"no list of {section}")
            if kind == "annotation" and self.evaluates:
                # only the metric reads this field
                fields = dict(fields, iscrowd=int)
            self._require_fields(entries, kind, fields)
            self._require_unique_ids(entries, kind)
        for image in self.dataset["images"]:
            size = [image["width"], image["height"]]
            if not are_numbers(size) or not all(0 < side < math.inf for side in size):
                raise self._malformed(f"image {image['id']} has width and height {size!s:.60}")
        for annotation in self.dataset["annotations"]:
            box, area = annotation["bbox"], annotation["area"]
            if len(box) != 4 or not are_numbers([*box, area]):
                found = f"bbox {box!s:.60} and area {area!s:.60}"
                raise self._malformed(f"annotation {annotation['id']} has {found}")
        super().createIndex()

    def _require_fields(self, entries: list, kind: str, fields: dict) -> None:
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self._malformed(f"{kind} number {place + 1} is no object")
            for name, types in fields.items():
                if not isinstance(entry.get(name), types):
                    which = entry.get("id", f"number {place + 1}")
                    what = f"{name} {entry[name]!r:.60}" if name in entry else f"no {name}"
                    raise self._malformed(f"{kind} {which} has {what}")

    def _require_unique_ids(self, entries: list[dict], kind: str) -> None:
        known: dict[int | str, dict] = {}
        for entry in entries:
            earlier = known.setdefault(entry["id"], entry)
            # merged files may list the same image twice
            if earlier is not entry and (kind != "image" or earlier != entry):
                raise self._malformed(f"two entries with the id of {kind} {entry['id']}")

    def _require_known_references(self) -> None:
        for key, known in (("category_id", self.cats), ("image_id", self.imgs)):
            used = {annotation[key] for annotation in self.anns.values()}
            if unknown := sorted(used - known.keys(), key=str):
                raise self._malformed(f"annotations refer to unknown {key} {unknown[:5]}")

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

    def _check_annotations(self, classes: Sequence[str], with_masks: bool) -> None:
        chosen = {one["id"] for one in self.cats.values() if one["name"] in classes}
        annotations = [
            one
            for one in self.anns.values()
            if one["category_id"] in chosen and not one.get("ignore")
        ]
        checks = BOX_CHECKS + (MASK_CHECKS if with_masks else [])
        report = []
        if doubles := len(self.dataset["images"]) - len(self.imgs):
            report.append(f"{doubles} images listed twice: used once")
        for finding in find_faults(annotations, self.imgs, checks):
            report.append(self._treat(finding))
        if report:
            message = f"annotation file {self.file}: {'; '.join(report)}"
            print_log(message, logger="current", level=logging.WARNING)

    def _treat(self, finding: Finding) -> str:
        """Mark or refuse faulty annotations, and return their line of the report."""
        check, annotations = finding
        first, happens = annotations[0], consequence(check, evaluates=self.evaluates)
        found = (
            f"{len(annotations)} annotations with {check.fault}, the first has id {first['id']}, "
            f"in {self.imgs[first['image_id']]['file_name']} "
            f"({check.field} {first.get(check.field)!s:.60})"
        )
        if happens == REFUSED:
            raise ValueError(
                f"annotation file {self.file}: {found}: correct or remove them, or do without masks"
            )
        if check.remedy == LEFT_OUT:
            for one in annotations:
                one["ignore"] = True
        return f"{found}: {happens}"

    def _malformed(self, what: str) -> ValueError:
        return ValueError(
            f"annotation file {self.file} is malformed: {what}; expected COCO's format with "
            f"{', '.join(SECTIONS)}"
        )


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """COCO dataset of mmdet that checks the annotations against the config.

    Masks are checked if the pipeline loads them. Classes beyond COCO's 80 have colours, too, which
    mmdet's pictures need.

    Raises:
        ValueError: names an annotation file that is missing or malformed, lacks a class of the
            config, has a category that is not in the config (allowed with
            ``metainfo=dict(classes=...)``), or contains nothing to train or evaluate on.
    """

    def __init__(self, *args, metainfo: dict | None = None, **kwargs):
        self._chooses_classes = metainfo is not None and "classes" in metainfo
        super().__init__(*args, metainfo=metainfo, **kwargs)
        meta = self._metainfo
        meta["palette"] = palette_for(meta["palette"], len(meta["classes"]))

    @property
    def COCOAPI(self):  # noqa: N802 - mmdet's name for the reader
        """Reader that mmdet calls with the path of the annotation file."""
        return partial(
            CheckedCOCO,
            classes=self.metainfo["classes"],
            allow_others=self._chooses_classes,
            with_masks=any(getattr(step, "with_mask", False) for step in self.pipeline.transforms),
            evaluates=self.test_mode,
        )

    def filter_data(self) -> list[dict]:
        """Filter images as mmdet does, and check that some remain, for training with objects."""
        data_list = super().filter_data()
        if self.test_mode and not data_list:
            raise ValueError(f"annotation file {self.ann_file} lists no image to evaluate on")
        if not any(self.test_mode or has_object(info) for info in data_list):
            raise ValueError(
                f"annotation file {self.ann_file} has no image with an object to train on: of "
                f"{len(self.data_list)} images filter_cfg={self.filter_cfg} leaves "
                f"{len(data_list)}, and the classes are {self.metainfo['classes'][:5]}"
            )
        return data_list


def has_object(info: dict) -> bool:
    """Return whether an image has an annotated object that is not a crowd."""
    return any(not instance["ignore_flag"] for instance in info["instances"])
