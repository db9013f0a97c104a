"""The documentation is true: it builds strictly, asks no other server, and its blocks run."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from doc_blocks import REPOSITORY, SAID, blocks, commands, execute, parse
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from hybrid_backbones import backbones, ops
from hybrid_backbones.benchmark import overview, page_parts
from hybrid_backbones.cli import main as hb
from hybrid_backbones.cli import reference

DOCS = REPOSITORY / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
PAGES["contributing.md"] = (REPOSITORY / "CONTRIBUTING.md").read_text()
README = (REPOSITORY / "README.md").read_text()
# pages whose blocks have tests of their own
ELSEWHERE = {
    "own_data.md": "tests/training/test_own_data.py",
    "recipes.md": "tests/test_docs_recipes.py",
}
WITH_PYTHON = [name for name, text in PAGES.items() if blocks(text, "python")]
COMMANDS = sorted(
    {
        tuple(words)
        for text in (*PAGES.values(), README)
        for block in blocks(text, "bash")
        for words in commands(block.code)
    }
)
OURS = [
    words
    for words in COMMANDS
    if (words[0] == "python" and words[1].startswith("tools/"))
    or (words[0] == "hb" and words[1] != "--help")
]
# of others, and of shells
KNOWN = {"mkdocs", "pip", "pre-commit", "scontrol"} | {
    "[",
    "exit",
    "export",
    "sbatch",
    "srun",
    "touch",
}


@pytest.mark.parametrize("page", sorted(set(WITH_PYTHON) - set(ELSEWHERE)))
def test_the_python_blocks_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(PAGES[page], "python"):
        if block.reason is not None:
            continue
        if block.title is not None:
            build_config(tmp_path / block.title, block.code)
            continue
        capsys.readouterr()
        execute(block.code, page, names)
        said = SAID.findall(block.code)
        assert len(said) == block.code.count("print(")
        assert capsys.readouterr().out.splitlines() == said


def build_config(path, code):
    path.write_text(code)
    cfg = Config.fromfile(path)
    MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))


def test_blocks_that_run_elsewhere_are_read_there():
    for page, test in ELSEWHERE.items():
        assert f"docs/{page}" in (REPOSITORY / test).read_text()


def test_blocks_that_do_not_run_name_what_tests_the_same():
    left = [block for text in PAGES.values() for block in blocks(text, "python") if block.reason]
    assert left
    for block in left:
        test = re.search(r"tests/\S+\.py", block.reason)[0]
        called = re.search(r"(\w+)\(", block.code.split("\n\n")[1])[1]
        where = (REPOSITORY / test).read_text() + (DOCS / "tutorial.ipynb").read_text()
        assert (REPOSITORY / test).is_file()
        assert called in where


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_command_of_the_pages_has_arguments_that_are_taken(words, monkeypatch):
    if words[1].startswith(("playground", "tools/playground")):
        pytest.importorskip("gradio")
    parsed = parse([*words], monkeypatch)
    named = [value for value in vars(parsed).values() if isinstance(value, str)]
    for name in (*named, *words):
        if name.startswith("configs/") and "CONFIG" not in name and "*" not in name:
            assert (REPOSITORY / name.removeprefix("./")).is_file(), name


def test_all_other_commands_are_of_known_programs():
    others = [words for words in COMMANDS if words not in OURS]
    rest = [words for words in others if words[0] not in KNOWN]
    for words in rest:
        launcher = words[0].endswith(".sh") and (REPOSITORY / words[0]).is_file()
        assert launcher or words[:2] in (("python", "-m"), ("hb", "--help")), words
    files = {word for words in others for word in words if word.endswith(".txt")}
    assert [file for file in files if not (REPOSITORY / file).is_file()] == []


@pytest.mark.slow
def test_the_parts_of_pages_are_those_of_the_code():
    for name, text in {"README.md": README, **PAGES}.items():
        assert text == page_parts.fill_parts(text, reference.PARTS), (
            f"run `python tools/overview.py` for {name}"
        )
    table = overview.overview_table(".")
    assert table in PAGES["backbones/index.md"]
    assert all(f"| `{network}` |" in README for network in overview.PAPERS)


@pytest.mark.parametrize("name", hb.COMMANDS)
def test_the_page_of_commands_says_what_each_argument_means(name, capsys):
    table = reference.describe_command(name)
    part = f"\n## hb {name}\n\n<!-- command: {name} -->\n\n{table}\n\n<!-- end -->\n"
    assert part in PAGES["commands.md"]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert bool(rows) == (name != "doctor")
    for row in rows:
        argument, meaning = re.fullmatch(r"\| `(.+?)` \| (.*) \|", row).groups()
        assert meaning, argument
    with pytest.raises(SystemExit):
        hb.main([name, "--help"])
    flags = re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert set(flags) <= set(re.findall(r"`(--[\w-]+)", table))


def test_a_part_takes_the_place_of_the_one_before_alone(monkeypatch):
    monkeypatch.setitem(page_parts.PARTS, "weights", lambda network: f"weights of {network}")
    page = "# A\n<!-- weights: B -->\n{}<!-- end -->\n\nC\n<!-- end -->\n"
    filled = page.format("\nweights of B\n\n")
    assert page_parts.fill_parts(page.format("")) == filled
    assert page_parts.fill_parts(page.format("of\n\nyesterday\n")) == filled
    assert (
        page_parts.fill_parts("<!-- others: B -->\n<!-- end -->")
        == "<!-- others: B -->\n<!-- end -->"
    )


def test_the_pages_of_the_backbones_are_those_of_the_package():
    pages = {f"backbones/{paper.page}.md" for paper in overview.PAPERS.values()}
    assert pages == {name for name in PAGES if name.startswith("backbones/")} - {
        "backbones/index.md"
    }
    assert overview.PAPERS.keys() == {*backbones.__all__} - {"HierarchicalBackbone"}
    for network, paper in overview.PAPERS.items():
        for part in ("variants", "configs", "weights"):
            assert f"<!-- {part}: {network} -->\n\n" in PAGES[f"backbones/{paper.page}.md"]


def test_the_picture_of_accuracy_is_that_of_the_zoo_and_its_names_cover_nothing(tmp_path):
    figure = overview.draw_accuracy(tmp_path / "accuracy.png")
    with (
        Image.open(tmp_path / "accuracy.png") as drawn,
        Image.open(DOCS / "overview/accuracy.png") as kept,
    ):
        assert kept.text["Description"] == drawn.text["Description"]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) > 20
    boxes.append(axes.get_legend().get_window_extent())
    overlapping = [
        (a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.padded(-1).overlaps(b)
    ]
    assert overlapping == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the built site, by address; `HB_SITE` names one that was built before."""
    folder = Path(os.environ.get("HB_SITE") or tmp_path_factory.mktemp("site"))
    if "HB_SITE" not in os.environ:
        if find_spec("mkdocs") is None:
            pytest.skip("mkdocs is not installed: requirements/docs.txt")
        command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder)
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")
    }


@pytest.mark.slow
def test_the_site_asks_no_other_server(site):
    loads = r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(https?:[^\s\">]+)"
    links = r"<link\b[^>]*rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*href=\"?(https?:[^\s\">]+)"
    assert [found for text in site.values() for found in re.findall(f"{loads}|{links}", text)] == []


@pytest.mark.slow
def test_the_site_has_all_pages_and_no_part_is_left_out(site):
    assert len(site) >= len(PAGES)
    for address, text in site.items():
        assert "<!-- file: " not in text, address
    assert "swiftformer_l3" in site["backbones/swiftformer/index.html"]
    assert "Contributing" in site["contributing/index.html"]
    cells = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
    titles = [re.match(r"## (.+)", "".join(cell["source"])) for cell in cells]
    for title in filter(None, titles):
        assert f"{title[1]}<" in site["tutorial/index.html"]


@pytest.mark.slow
def test_every_operator_is_described(site):
    described = set(
        re.findall(r'id="?hybrid_backbones\.ops\.([\w.]+)', site["operators/index.html"])
    )
    assert {*ops.__all__} <= {name.rpartition(".")[2] for name in described}
    # no role of reStructuredText is left
    for text in site.values():
        assert re.findall(r":(?:class|func|mod|meth):", text) == []


@pytest.mark.slow
def test_every_class_that_configs_name_is_described(site):
    registered = {
        name
        for path in (REPOSITORY / "hybrid_backbones").rglob("*.py")
        for name in re.findall(r"\.register_module\(.*\)\n(?:@.+\n)*class (\w+)", path.read_text())
    }
    pages = [text for address, text in site.items() if address.startswith(("api/", "operators/"))]
    described = {
        found.rpartition(".")[2]
        for text in pages
        for found in re.findall(r'id="?(hybrid_backbones\.[\w.]+)', text)
    }
    assert len(registered) > 30
    assert registered - described == set()
