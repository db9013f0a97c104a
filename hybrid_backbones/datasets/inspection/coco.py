"""Inspection of a set in COCO's format: its annotation file, entry by entry, and its images."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..coco import IDS, SECTIONS
from ..coco_checks import (
    AREA_CHECK,
    BOX_CHECKS,
    LEFT_OUT,
    MASK_CHECKS,
    are_numbers,
    consequence,
    find_faults,
    read_as_pycocotools,
)
from .findings import Findings
from .images import each, inspect_image

NO_FILE = "annotation files that cannot be read"
NO_SECTION = "sections missing in the annotation file"
NO_IMAGE = "annotation files that list no image"
NO_CATEGORY = "categories of the config that the annotation file does not have"
OTHER_CATEGORY = "categories that the config does not have"
UNKNOWN_CATEGORY = "annotations of unknown categories"
UNKNOWN_IMAGE = "annotations of unknown images"


def inspect_coco(
    file: Path,
    images: Path,
    classes: Sequence[str],
    name: str,
    *,
    allow_others: bool = False,
    with_masks: bool = False,
    evaluates: bool = False,
    quiet: bool = False,
) -> Findings:
    """Inspect an annotation file and all images that it lists.

    Args:
        file: annotation file.
        images: folder of the images.
        classes: names of the categories that the file must have.
        name: text before the progress bar.
        allow_others: whether the file may have other categories.
        with_masks: whether masks are used, and therefore inspected.
        evaluates: whether a metric also reads the file, which needs ``iscrowd``.
        quiet: whether to show no bar.
    """
    findings = Findings(classes)
    try:
        content = read_as_pycocotools(file)
    except (OSError, ValueError, RecursionError) as error:
        findings.problems.add(NO_FILE, f"{file} ({error})")
        return findings
    content = content if isinstance(content, dict) else {}
    entries = {
        section: list(_usable(findings, content, section, evaluates)) for section in SECTIONS
    }
    if content.get("images") == []:
        findings.problems.add(NO_IMAGE, str(file))
    _compare_categories(findings, entries["categories"], allow_others)
    annotations = _known(findings, content, entries)
    _inspect_annotations(findings, annotations, entries, with_masks, evaluates)
    items = [(images / x["file_name"], (x["width"], x["height"])) for x in entries["images"]]
    for (path, _), report in each(lambda item: inspect_image(*item), items, name, quiet=quiet):
        findings.add_image(path, report)
    return findings


def _usable(findings: Findings, content: dict, section: str, evaluates: bool) -> Iterator[dict]:
    """Yield the entries of a section that have their fields and an id of their own."""
    kind, fields = SECTIONS[section]
    entries = content.get(section)
    if not isinstance(entries, list):
        findings.problems.add(NO_SECTION, section)
        return
    if kind == "annotation" and evaluates:
        fields = dict(fields, iscrowd=int)
    known: set[int | str] = set()
    for place, entry in enumerate(entries):
        fault = _fault(entry, fields)
        if fault:
            which = entry.get("id", place) if isinstance(entry, dict) else place
            findings.problems.add(f"{kind} entries malformed", f"{kind} {which} ({fault})")
        elif entry["id"] in known:
            findings.problems.add(f"{kind} entries with the id of another", str(entry["id"]))
        else:
            known.add(entry["id"])
            yield entry


def _fault(entry: Any, fields: dict) -> str | None:
    """Return what is wrong with the fields of an entry."""
    if not isinstance(entry, dict):
        return "no object"
    wrong = [name for name, types in fields.items() if not isinstance(entry.get(name), types)]
    if wrong:
        return f"{wrong[0]} {entry.get(wrong[0])!r:.60}"
    if "width" in fields:
        size = [entry["width"], entry["height"]]
        is_size = are_numbers(size) and all(0 < side < math.inf for side in size)
        return None if is_size else f"width and height {size!s:.60}"
    if "bbox" in fields:
        is_box = len(entry["bbox"]) == 4 and are_numbers([*entry["bbox"], entry["area"]])
        return None if is_box else f"bbox {entry['bbox']!s:.60} and area {entry['area']!s:.60}"
    return None


def _compare_categories(findings: Findings, categories: list[dict], allow_others: bool) -> None:
    names = [category["name"] for category in categories]
    absent = [name for name in findings.classes if name not in names]
    findings.problems.add(NO_CATEGORY, *absent)
    if not allow_others:
        others = [name for name in names if name not in findings.classes]
        findings.problems.add(OTHER_CATEGORY, *others)


def _known(findings: Findings, content: dict, entries: dict[str, list]) -> list[dict]:
    """Return the annotations of the classes, without those whose image or category is unknown."""
    usable = {section: {one["id"]: one for one in entries[section]} for section in SECTIONS}
    listed = {section: _ids(content.get(section)) for section in SECTIONS}
    annotations = []
    for one in entries["annotations"]:
        for kind, key, section in (
            (UNKNOWN_CATEGORY, "category_id", "categories"),
            (UNKNOWN_IMAGE, "image_id", "images"),
        ):
            # malformed entries have been reported
            if one[key] not in listed[section]:
                findings.problems.add(kind, f"annotation {one['id']} ({key} {one[key]})")
        category = usable["categories"].get(one["category_id"], {})
        if category.get("name") in findings.classes and one["image_id"] in usable["images"]:
            annotations.append(one)
    return annotations


def _ids(entries: Any) -> set:
    """Return the ids of all entries, usable or not."""
    entries = entries if isinstance(entries, list) else []
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return {one for one in ids if isinstance(one, IDS)}


def _inspect_annotations(
    findings: Findings,
    annotations: list[dict],
    entries: dict[str, list],
    with_masks: bool,
    evaluates: bool,
) -> None:
    """Check boxes and masks, and count the objects that a training would use."""
    images = {one["id"]: one for one in entries["images"]}
    names = {one["id"]: one["name"] for one in entries["categories"]}
    used = {one["id"]: one for one in annotations if not one.get("ignore")}
    checks = BOX_CHECKS + ([*MASK_CHECKS, AREA_CHECK] if with_masks else [])
    for check, faulty in find_faults(list(used.values()), images, checks):
        kind = f"annotations with {check.fault}, {consequence(check, evaluates=evaluates)}"
        for one in faulty:
            where = f"annotation {one['id']} in {images[one['image_id']]['file_name']}"
            findings.problems.add(kind, f"{where} ({check.field} {one.get(check.field)!s:.60})")
            if check.remedy == LEFT_OUT:
                del used[one["id"]]
    objects = [one for one in used.values() if not one.get("iscrowd")]
    findings.boxes = np.array([one["bbox"][2:] for one in objects], float).reshape(-1, 2)
    findings.num_objects.update(names[one["category_id"]] for one in objects)
    pairs = {(one["image_id"], names[one["category_id"]]) for one in objects}
    findings.num_images.update(name for _, name in pairs)
