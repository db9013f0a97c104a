"""Tables of all backbones for the README and the documentation, and a picture of their accuracy.

Sizes and channels are those of the networks, published figures those of the zoo's rows; nothing is
written by hand but names, ideas and addresses of papers.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..checkpoints import PUBLISHED
from ..create import FAMILIES, create_backbone
from .plots import MARKS, write_names
from .tables import markdown_table
from .zoo_table import Row, read_zoo, significant


class Paper(NamedTuple):
    """What a network is known for; `page` is the stem of its file in docs/backbones."""

    idea: str
    authors: str
    address: str
    page: str


PAPERS = {
    "ACmixResNet": Paper(
        "convolution and attention share projections",
        "Pan et al., CVPR 2022",
        "https://arxiv.org/abs/2111.14556",
        "acmix_resnet",
    ),
    "ACmixSwin": Paper(
        "the same, in shifted windows",
        "Pan et al., CVPR 2022",
        "https://arxiv.org/abs/2111.14556",
        "acmix_swin",
    ),
    "BiFormer": Paper(
        "attend to the few regions that matter",
        "Zhu et al., CVPR 2023",
        "https://arxiv.org/abs/2303.08810",
        "biformer",
    ),
    "MixFormer": Paper(
        "windows and convolution gate each other",
        "Chen et al., CVPR 2022",
        "https://arxiv.org/abs/2204.02557",
        "mixformer",
    ),
    "SwiftFormer": Paper(
        "attention that is linear in the tokens",
        "Shaker et al., ICCV 2023",
        "https://arxiv.org/abs/2303.15446",
        "swiftformer",
    ),
    "UniFormer": Paper(
        "convolution early, attention late",
        "Li et al., TPAMI 2023",
        "https://arxiv.org/abs/2201.09450",
        "uniformer",
    ),
    "UniFormerLight": Paper(
        "the same, pruning uninformative tokens",
        "Li et al., TPAMI 2023",
        "https://arxiv.org/abs/2201.09450",
        "uniformer_light",
    ),
    "XVolutionResNet": Paper(
        "two branches merge into one dynamic convolution",
        "Chen et al., 2021",
        "https://arxiv.org/abs/2106.02253",
        "xvolution_resnet",
    ),
}
# of the picture: height of the images that its results are of, and letters in points
SIDE, LETTERS = 224, 13


class Variant(NamedTuple):
    """A published size of a network, as :func:`create_backbone` builds it."""

    name: str
    size: str | int
    channels: tuple[int, ...]
    params: float  # millions, of the backbone alone


@cache
def variants_of(network: str) -> list[Variant]:
    """Build all published sizes of a network, without memory, and return what they are."""
    variants = []
    for prefix, kind, _, sizes in FAMILIES:
        if getattr(kind, "__name__", None) != network:
            continue
        for size in sizes:
            with torch.device("meta"):
                backbone = create_backbone(f"{prefix}{size}")
            params = sum(x.numel() for x in backbone.parameters()) / 1e6
            variants.append(Variant(f"{prefix}{size}", size, backbone.out_channels, params))
    return variants


def rows_of(network: str, pattern: str = "") -> list[Row]:
    """Return the zoo's rows with a network whose config's name begins with a pattern."""
    return [
        row for row in read_zoo().rows if row.backbone == network and re.match(pattern, row.config)
    ]


def write_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; empty cells become dashes."""
    return markdown_table(titles, ([cell or "-" for cell in row] for row in rows))


def overview_table(address: str) -> str:
    """Return the table of all networks.

    Args:
        address: folder of the pages of the networks.
    """
    titles = ("backbone", "idea", "paper", "sizes", "channels", "top-1", "box AP", "mIoU", "more")
    return write_table(titles, (_overview(network, address) for network in PAPERS))


def _overview(network: str, address: str) -> list[str]:
    paper, variants = PAPERS[network], variants_of(network)
    stages = zip(*(variant.channels for variant in variants), strict=True)
    once = rows_of(network, r"maskrcnn_(?!.*_3x$)")
    return [
        f"`{network}`",
        paper.idea,
        f"[{paper.authors}]({paper.address})",
        ", ".join(str(variant.size) for variant in variants),
        ", ".join(_range(stage, "d") for stage in stages),
        _results(rows_of(network, "imagenet_"), "top-1"),
        _results(once, "box AP"),
        _results(rows_of(network, "upernet_"), "mIoU"),
        f"[page]({address}/{paper.page}.md)",
    ]


def _results(rows: Sequence[Row], metric: str) -> str:
    values = [value for row in rows if (value := row.result(metric)) is not None]
    return _range(values, ".1f") if values else ""


def _range(values: Sequence[float], form: str) -> str:
    ends = dict.fromkeys(f"{end:{form}}" for end in (min(values), max(values)))
    return "–".join(ends)


def variants_table(network: str) -> str:
    """Return the table of a network's sizes, with what was published of them on ImageNet."""
    titles = ("name", "channels", "parameters (M)", "top-1, as published")
    return write_table(titles, (_variant(network, variant) for variant in variants_of(network)))


def _variant(network: str, variant: Variant) -> list[str]:
    rows = [row for row in rows_of(network, "imagenet_") if row.arch == variant.size]
    results = [
        f"{value:.1f} (`{row.config}`)"
        for row in rows
        if (value := row.result("top-1")) is not None
    ]
    channels = ", ".join(map(str, variant.channels))
    return [f"`{variant.name}`", channels, f"{variant.params:.1f}", ", ".join(results)]


def configs_table(network: str) -> str:
    """Return the table of a network's configs, with their costs and published results."""
    titles = ("config", "parameters (M)", "FLOPs (G)", "at", "published")
    rows = (
        (
            f"`{row.config}`",
            f"{row.params:.1f}",
            significant(row.macs),
            f"{row.size[0]}×{row.size[1]}",
            row.published,
        )
        for row in rows_of(network)
    )
    return write_table(titles, rows)


def weights_table(network: str) -> str:
    """Return the table of a network's published weights, or a sentence where there are none."""
    configs = {row.config for row in rows_of(network)}
    rows = [
        (
            f"`{name}`",
            f"`{one.config}`",
            one.result,
            one.licence or "not stated",
            "no address works any more" if one.dead else "",
        )
        for name, one in PUBLISHED.items()
        if one.config in configs
    ]
    if not rows:
        return "The authors published no weights."
    return write_table(("name", "config", "result", "licence", "note"), rows)


def draw_accuracy(out: str | Path) -> Figure:
    """Draw published top-1 over parameters for all networks, and save the picture.

    The file says in its description what is drawn.
    """
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    axes, names = figure.subplots(), []
    for network in PAPERS:
        colour, marker = MARKS[network]
        points = _points(network)
        if not points:
            continue
        x, y = [point[1][0] for point in points], [point[1][1] for point in points]
        axes.plot(x, y, marker, color=colour, markersize=10, label=network, markeredgecolor="w")
        names += _join_close(points)
    axes.set_title(f"Published ImageNet-1k accuracy, images of {SIDE}×{SIDE}", fontsize=16)
    axes.set_xlabel("parameters of the classifier (millions)", fontsize=LETTERS + 1)
    axes.set_ylabel("top-1 accuracy (%)", fontsize=LETTERS + 1)
    axes.set_xscale("log")
    axes.set_xticks([3, 5, 10, 20, 30, 50, 100])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=LETTERS)
    axes.margins(0.08, 0.08)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=LETTERS, loc="lower right")
    figure.draw_without_rendering()
    write_names(axes, names, LETTERS - 1)
    figure.savefig(out, dpi=110, metadata={"Description": json.dumps(names)})
    return figure


def _points(network: str) -> list[tuple[str, tuple[float, float]]]:
    """Return names and places of a network's sizes, one of those in the same place."""
    places: dict[tuple[float, float], str] = {}
    for row in sorted(rows_of(network, r"imagenet_(?!.*_tl$)"), key=lambda row: row.params):
        value = row.result("top-1", SIDE)
        if value is not None:
            name = re.sub(r"^imagenet_(acmix_|[a-z]+_)?", "", row.config)
            places.setdefault(
                (round(row.params, 1), value), name.replace("_plus", "+").replace("_", " ").upper()
            )
    return [(name, place) for place, name in places.items()]


def _join_close(points: Sequence[tuple[str, tuple[float, float]]]) -> list:
    """Give one name to points of a network that cover each other: as many parameters, 0.1 apart."""
    joined: list[tuple[str, tuple[float, float]]] = []
    for name, (params, value) in points:
        if joined and joined[-1][1][0] == params and abs(joined[-1][1][1] - value) < 0.15:
            name = f"{joined.pop()[0]}, {name}"
        joined.append((name, (params, value)))
    return joined
