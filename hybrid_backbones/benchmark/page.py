"""Markdown page of benchmarks: saved tables with their commands, machines and dates."""

import json
from pathlib import Path

from .settings import DEVICES
from .tables import to_markdown

# heading and introduction of each saved table, by its name
SECTIONS = {
    "tests": (
        "Tests on a GPU",
        "Those marked `cuda`.",
    ),
    "errors": (
        "Errors of the kernels on a GPU",
        "Beside those of the definition in the same dtype; exact is the definition in float64.",
    ),
    "kernels": (
        "Kernels on a GPU",
        "The attention alone, with the heads and channels of its network at the first three stages "
        "of an 800×1344 image.",
    ),
    "ops": (
        "Operators",
        "At the first stage of an 800×1344 image; every layer has 64 channels. Layers are measured "
        "whole, with their projections: an implementation changes the attention in them only, so "
        "that of the reference gets maps in the layout that suits ours. Attention to all positions "
        "(`AttentionLePE`) is for smaller maps and not among them. Kept memory and launches are "
        "exact. Launches are those of the named implementation: `tiled`, `chunked` and `shifted` "
        "are for CPUs, and a GPU launches a kernel of Triton in the forward pass of the attention "
        "and two or three in its backward pass.",
    ),
    "ops_kept": (
        "Operators in memory that is kept",
        "As above, but what is freed is kept for what comes next. By default the C library returns "
        "large blocks to the system, and each new one costs a page fault for every 4 KiB: that is "
        "most of the time of what allocates much, such as the references above, and it depends on "
        "what the process did before.",
    ),
    "growth": (
        "How cost grows with the map",
        "The sides of the map times one, two and four. What ours keep for the backward pass grows "
        "with the map: as many maps at any size, but that bi-level routing also keeps its padding, "
        "which is much of a small map. On a CPU, routing of the two smaller maps is slower than "
        "its reference with gradients.",
    ),
    "kept": (
        "What backbones keep for the backward pass",
        "Kept memory and launches are counts, which are exact: launches are those of a GPU, where "
        "Triton's kernels are the default, counted on a CPU, and what is kept is that of the forms "
        "for CPUs. On a GPU local attention also keeps two statistics for each head and position, "
        "and windows (ACmix-Swin, MixFormer) more, as PyTorch's attention takes copies of them; "
        "their launches are fewer there, where each call of that attention is one kernel, while a "
        "CPU that trains a bias launches its parts. "
        "The published networks keep 1111 MiB (ACmix-R50), 611 (BiFormer-S), 200 (UniFormer-S, "
        "hybrid) and 128 (SwiftFormer-L1) at this size, and launch 1433, 2053, 825 and 863 "
        "operations without stochastic depth, which BiFormer-S and UniFormer-S have here (without "
        "it they launch 1726 and 704). Where Triton is missing, ACmix-R50 launches 2162 operations "
        "and BiFormer-S 2524, more than was published: `tiled` and `chunked` take the place of "
        "each kernel, in the chunks of a GPU.",
    ),
    "backbones": ("Backbones", "Beside torchvision's ResNet-50 and Swin-T."),
    "compiled": (
        "Compiled backbones",
        "Without and with `torch.compile`.",
    ),
    "train": (
        "Training of detectors",
        "A step of `tools/train.py` on pictures of noise with eight objects each. The baseline is "
        "mmdet's, with frozen stem, first stage and batch statistics.",
    ),
    "train_segmentor": (
        "Training of segmentors",
        "The same for pictures of noise with labels at random.",
    ),
    "jobs": (
        "Jobs that share the cores",
        "Mini trainings that start at once, beside one alone. A thread that waits for others keeps "
        "its core busy for long (`ACTIVE`), for some milliseconds (the default of OpenMP), or soon "
        "sleeps (`PASSIVE`), as the commands let it unless a user says otherwise.",
    ),
    "layers": (
        "Where training keeps memory",
        "What the layers of detectors keep for the backward pass of the same step: counts, which "
        "are exact. The memory of a step has weights, their gradients and the optimizer's state on "
        "top. mmdet's baseline keeps nothing of stem and first stage, which are frozen.",
    ),
}
# of what runs on one kind of device only: kernels, and threads
ONLY = {"tests": ("cuda",), "errors": ("cuda",), "kernels": ("cuda",), "jobs": ("cpu",)}
INTRODUCTION = """# Benchmarks

Written by `python tools/benchmark.py page` from the tables in `docs/benchmarks`. Compare
rows of one table only: each was measured in one run, on one machine. What no table shows was not
measured, such as larger batches of operators and backbones.
"""


def write_page(folder: Path) -> str:
    """Return the page of the tables ``<device>_<name>.json`` in a folder.

    What is to be said of one run stands in its table, under the key `note`.

    Raises:
        ValueError: if the folder has no table, or a file is not a table.
    """
    if not any(
        (folder / f"{device}_{name}.json").exists() for device in DEVICES for name in SECTIONS
    ):
        raise ValueError(f"expected tables such as cpu_ops.json in {folder}, found none")
    parts = [INTRODUCTION]
    for name, (heading, note) in SECTIONS.items():
        parts.append(f"## {heading}\n\n{note}\n")
        for device in ONLY.get(name, DEVICES):
            file = folder / f"{device}_{name}.json"
            parts.append(_section(file) if file.exists() else f"{device.upper()}: not measured.\n")
    return "\n".join(parts)


def _section(file: Path) -> str:
    try:
        saved = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a table of hb benchmark in {file}: {error}") from error
    if not (isinstance(saved, dict) and saved.keys() >= {"rows", "command", "date"}):
        raise ValueError(f"expected a table of hb benchmark in {file}: it has no rows")
    rows = saved.pop("rows")
    picture = file.with_suffix(".png")
    note = [f"{saved['note']}\n"] if "note" in saved else []
    lines = [*note, f"`{saved['command']}`, {saved['date'][:10]}:\n", to_markdown(rows, saved)]
    if picture.exists():
        lines.append(f"\n![{file.stem}]({file.parent.name}/{picture.name})")
    return "\n".join([*lines, ""])
