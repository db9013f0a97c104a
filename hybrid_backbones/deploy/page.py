"""The page of exports: whole models as ONNX files, checked and timed on the machine that writes it.

Weights are random: they change neither the operators nor the times, and the errors only a little.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope

from ..benchmark.settings import device_name
from ..locformer.demo import sketch_size
from .report import milliseconds
from .runtime import open_file
from .whole import export_trained

SEED = 0


class Case(NamedTuple):
    """A model of the page: its config, what is said of it, and how it is exported."""

    config: str
    title: str
    size: tuple[int, int]
    options: Mapping[str, Any] = MappingProxyType({})  # changes of the config


# a network that has learnt nothing finds objects only without a threshold
ALL_BOXES = {"model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rpn.max_per_img": 100}
ALL_BOXES_OF_ONE_STAGE = {"model.test_cfg.score_thr": 0.0}
CLASSIFIED, DETECTED, SEGMENTED = (224, 224), (320, 448), (256, 320)
CASES = (
    Case("imagenet_acmix_r26", "ACmix-ResNet-26, classifier", CLASSIFIED),
    Case("imagenet_acmix_swin_t", "ACmix-Swin-T, classifier", CLASSIFIED),
    Case("imagenet_biformer_t", "BiFormer-T, classifier", CLASSIFIED),
    Case("imagenet_mixformer_b0", "MixFormer-B0, classifier", CLASSIFIED),
    Case("imagenet_swiftformer_xs", "SwiftFormer-XS, classifier", CLASSIFIED),
    Case("imagenet_uniformer_s", "UniFormer-S, attention to all, classifier", CLASSIFIED),
    Case("imagenet_uniformer_xxs", "UniFormerLight-XXS, classifier", CLASSIFIED),
    Case("imagenet_xvolution_r34", "X-volution-ResNet-34, classifier", CLASSIFIED),
    Case("upernet_uniformer_s_w32", "UniFormer-S, windows, UperNet", SEGMENTED),
    Case("fpn_uniformer_s_h32", "UniFormer-S, hybrid, Semantic FPN", SEGMENTED),
    Case(
        "retinanet_swiftformer_l1",
        "SwiftFormer-L1, RetinaNet",
        DETECTED,
        ALL_BOXES_OF_ONE_STAGE,
    ),
    Case("maskrcnn_swiftformer_l1", "SwiftFormer-L1, Mask R-CNN", DETECTED, ALL_BOXES),
    Case(
        "cascade_maskrcnn_uniformer_s_3x",
        "UniFormer-S, hybrid, Cascade Mask R-CNN",
        DETECTED,
        ALL_BOXES,
    ),
    Case("locformer_swin_t", "LocFormer, Swin-T, one sketch", DETECTED),
)
HEAD = """# Exported networks

Written by `python tools/deploy_page.py`: whole models as ONNX files for images of any size, with
normalisation inside, as `tools/export.py … --dynamic` makes them. Each file was run by onnxruntime
on three images of three sizes, and is kept only if it gives PyTorch's numbers. Weights are random.

"""
TAIL = """
- largest error: of the worst output, beside its largest value; of labels, the share that differs.
- ms: median of five calls on one image of the size in the row; one thread unless two are named.
- export: seconds on one thread, with the comparison left out.
- detectors: random weights find nothing above a threshold, so it is 0 here, and NMS gets the boxes
  of all 80 classes; R-CNNs take 100 proposals instead of 1000.
- one row by hand: `python tools/export.py configs/CONFIG.py CHECKPOINT model.onnx --size H W
  --dynamic`; `model.json` beside the file has all numbers and the operators.

## Not tried

None of these ran here; all but CoreML read the ONNX file (a fixed size is the safest for the last
two):

| runtime | command to try |
| --- | --- |
| TensorRT | `trtexec --onnx=model.onnx --fp16` |
| OpenVINO | `ovc model.onnx` |
| CoreML | `coremltools.convert(torch.export.load("model.pt2"))` in Python, of a `.pt2` file |
| phones (ncnn) | `pnnx model.onnx` |

onnxruntime was run on a CPU only; GPUs and float16 on them were not measured.
"""
COLUMNS = (
    *("model", "config", "image", "export (s)", "largest error", "PyTorch (ms)"),
    *("compiled (ms)", "onnxruntime (ms)", "2 threads (ms)", "file (MB)", "operators"),
)


def measure(case: Case, configs: Path, folder: Path) -> dict[str, Any]:
    """Export one model with random weights and time its file.

    Returns:
        report of the export, with the milliseconds of its file on one and on two threads.
    """
    cfg = Config.fromfile(configs / f"{case.config}.py")
    cfg.merge_from_dict(dict(case.options))
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    torch.manual_seed(SEED)
    settings = {"data_preprocessor": cfg.get("data_preprocessor"), **cfg.model}
    checkpoint, out = folder / f"{case.config}.pth", folder / f"{case.config}.onnx"
    torch.save(dict(state_dict=MODELS.build(settings).state_dict()), checkpoint)
    report = export_trained(
        cfg, checkpoint, out, case.size, dynamic=True, time_compiled=True, force=True
    )
    sizes = [case.size]
    if "sketch_encoder" in cfg.model:
        sizes.append((sketch_size(cfg),) * 2)
    inputs = [torch.randint(256, (1, 3, *size), dtype=torch.uint8).numpy() for size in sizes]
    for threads in (1, 2):
        run, _ = open_file(out, threads)
        report[f"threads_{threads}"] = milliseconds(partial(run, *inputs))
    checkpoint.unlink()
    out.unlink()
    # the names and colours of the classes are those of the framework
    return {key: value for key, value in report.items() if key not in ("classes", "palette")}


def row_of(case: Case, report: dict[str, Any] | None) -> list[str]:
    """Return the cells of a model."""
    height, width = case.size
    cells = [case.title, f"`{case.config}`", f"{height}×{width}"]
    if report is None:
        return [*cells, "not measured", *["–"] * (len(COLUMNS) - len(cells) - 1)]
    times = report["milliseconds"]
    return [
        *cells,
        f"{report['export_seconds']:.0f}",
        f"{max(report['errors'].values()):.1e}",
        f"{times['pytorch']:.1f}",
        times["compiled"] if isinstance(times["compiled"], str) else f"{times['compiled']:.1f}",
        f"{report['threads_1']:.1f}",
        f"{report['threads_2']:.1f}",
        f"{report['bytes'] / 1e6:.1f}",
        f"{sum(report['operators'].values())}",
    ]


def write_page(configs: str | Path, out: str | Path, only: Iterable[str] = ()) -> Path:
    """Export and time the models, and write ``deploy.json`` and ``deploy.md``.

    Args:
        configs: folder of the configs.
        out: folder of both files.
        only: configs to measure; the other rows stay as they are saved. Without any, all.

    Returns:
        path of the page.

    Raises:
        ValueError: if a name is not on the page, or a model cannot be exported.
    """
    out, only = Path(out), [*only]
    if unknown := {*only} - {case.config for case in CASES}:
        raise ValueError(
            f"not on the page: {', '.join(sorted(unknown))}; there are "
            f"{', '.join(case.config for case in CASES)}"
        )
    saved = out / "deploy.json"
    reports = json.loads(saved.read_text()) if saved.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if only and case.config not in only:
                continue
            print_log(f"exporting {case.config}", "current")
            report = measure(case, Path(configs), Path(folder))
            report |= dict(date=f"{date.today()}", device=device_name("cpu"))
            reports[case.config] = report
            saved.write_text(json.dumps(reports, indent=1) + "\n")
    page = out / "deploy.md"
    page.write_text(page_of(reports))
    return page


def page_of(reports: dict[str, dict[str, Any]]) -> str:
    """Return the page of saved reports, in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [row_of(case, reports.get(case.config)) for case in CASES]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    machines = sorted({f"{one['device']}, {one['date']}" for one in reports.values()})
    return f"{HEAD}{table}\n\nMeasured on: {'; '.join(machines)}.\n{TAIL}"
