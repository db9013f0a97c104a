"""Inspection of sets that are folders: of images and label maps, or of images by class."""

from pathlib import Path

from mmengine.registry import DATASETS

from ..pictures import IGNORED
from .findings import Findings
from .images import each, inspect_image
from .label_maps import ONE_CLASS, inspect_pair


def inspect_folders(settings: dict, name: str, *, quiet: bool = False) -> Findings:
    """Inspect a data set of mmseg or mmpretrain.

    Args:
        settings: config of the dataset.
        name: text before the progress bar.
        quiet: whether to show no bar.

    Raises:
        ValueError: if the folders hold no images, or do not fit the classes.
    """
    # all of it, without transforms
    settings = {k: v for k, v in settings.items() if k != "indices"} | dict(pipeline=[])
    dataset = DATASETS.build(dict(settings, lazy_init=True))
    try:
        infos = dataset.load_data_list()
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{settings['type']} of {settings.get('data_root')}: {error}") from error
    findings = Findings(dataset.metainfo["classes"])
    if infos and "seg_map_path" in infos[0]:
        _add_label_maps(findings, infos, name, quiet)
    else:
        _add_classes(findings, infos, name, quiet)
    return findings


def _add_label_maps(findings: Findings, infos: list[dict], name: str, quiet: bool) -> None:
    labels: set[int] = set()
    for info, (image, report) in each(inspect_pair, infos, name, quiet=quiet):
        findings.add_image(Path(info["img_path"]), image)
        findings.problems.add_all(report.problems)
        labels |= report.labels
        for index in report.num_pixels.nonzero()[0]:
            findings.num_images[findings.classes[index]] += 1
            findings.num_pixels[findings.classes[index]] += int(report.num_pixels[index])
    if len(findings.num_images) == 1 and IGNORED in labels:
        (only,) = findings.num_images
        found = ", ".join(map(str, sorted(labels)))
        findings.problems.add(
            ONE_CLASS, f"{only} (labels {found}): write objects of label 255 as that of their class"
        )


def _add_classes(findings: Findings, infos: list[dict], name: str, quiet: bool) -> None:
    for info, report in each(
        lambda info: inspect_image(Path(info["img_path"])), infos, name, quiet=quiet
    ):
        findings.add_image(Path(info["img_path"]), report)
        findings.num_images[findings.classes[info["gt_label"]]] += 1
