"""Laws of the pictures of an inspection: names are drawn as they are, whatever is in them."""

import warnings

import pytest
import torch
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from hybrid_backbones.datasets.inspection.charts import draw_overview
from hybrid_backbones.datasets.inspection.findings import Findings
from hybrid_backbones.datasets.inspection.lettering import fonts_for, plain
from hybrid_backbones.datasets.inspection.sheet import draw_sheet
from hybrid_backbones.training.data_check import DataReport, draw_pictures

# mathematics of matplotlib that cannot be parsed, mathematics, and a label that legends left out
NAMES = [r"$\foo$", "a$b$c", "_hidden", r"5\$"]


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures that are saved."""
    saved, save = [], Figure.savefig

    def remember(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def texts(axes):
    """Return the texts of a panel, as they are drawn."""
    legend = axes.get_legend()
    found = [axes.title, *axes.texts, *axes.get_yticklabels()]
    found += legend.get_texts() if legend else []
    drawn = [text._preprocess_math(text.get_text()) for text in found]
    assert not any(is_mathematics for _, is_mathematics in drawn)
    return " ".join(text for text, _ in drawn)


@pytest.mark.parametrize("counted", ["num_objects", "num_pixels", "num_images"])
def test_the_overview_has_names_as_they_are(figures, tmp_path, counted):
    findings = Findings(NAMES)
    getattr(findings, counted).update(NAMES)
    draw_overview(dict(training=findings), tmp_path / "overview.png")
    assert all(name in texts(figures[0].axes[0]) for name in NAMES)


def test_classes_without_any_object_are_drawn(figures, tmp_path):
    draw_overview(dict(training=Findings("ab"), validation=Findings("ab")), tmp_path / "empty.png")
    assert "b" in texts(figures[0].axes[0])


def sample(kind):
    """Return a sample with all classes."""
    labels = torch.arange(len(NAMES))
    if kind == "boxes":
        boxes = torch.tensor([[2.0, 2.0, 9.0, 9.0]]).repeat(len(NAMES), 1)
        data = dict(gt_instances=InstanceData(bboxes=boxes, labels=labels))
    elif kind == "label map":
        data = dict(gt_sem_seg=PixelData(data=labels.repeat(16, 4)[None]))
    else:
        data = dict(gt_label=labels)
    return dict(inputs=torch.zeros(3, 16, 16), data_samples=BaseDataElement(**data))


@pytest.mark.parametrize("kind", ["boxes", "label map", "classes"])
def test_the_sheet_has_names_as_they_are(figures, tmp_path, kind):
    draw_sheet([sample(kind)], NAMES, tmp_path / "sheet.png")
    assert all(name in texts(figures[0].axes[0]) for name in NAMES)


def test_characters_that_no_font_has_are_named_once(monkeypatch, tmp_path):
    findings = Findings(["a猫", "猫犬\n"])
    findings.num_objects.update(findings.classes)
    manager = font_manager.fontManager
    default = [font for font in manager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(manager, "ttflist", default)
    with warnings.catch_warnings(record=True) as warned, fonts_for(findings.classes) as missing:
        draw_overview(dict(training=findings), tmp_path / "overview.png")
    assert missing == "犬猫"
    assert not [x for x in warned if x.category is UserWarning]


def test_another_font_is_used_for_characters_that_the_default_lacks(figures, tmp_path):
    # of STIX, which matplotlib brings
    findings = Findings(["a\u20dd"])
    findings.num_objects.update(findings.classes)
    before = rcParams["font.family"]
    with fonts_for(findings.classes) as missing, warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_overview(dict(training=findings), tmp_path / "overview.png")
    assert not missing
    assert rcParams["font.family"] == before


def test_a_plain_name_is_as_it_was():
    assert plain("bolt, M8 × 20 (50 %)") == "bolt, M8 × 20 (50 %)"
    assert len(set(map(plain, NAMES))) == len(NAMES)


def test_a_picture_that_fails_is_a_line_beside_the_others(tmp_path):
    def fail(path):
        raise ValueError("no ink")

    pictures = {tmp_path / "one.png": fail, tmp_path / "two.png": lambda path: None}
    assert draw_pictures(DataReport([], 0, pictures, set())) == [
        "one.png cannot be drawn: ValueError('no ink')",
        f"look at {tmp_path / 'two.png'}",
    ]
