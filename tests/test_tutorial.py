"""The notebook runs from top to bottom on the mini set, and what it shows is there."""

import os
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.fixture(scope="module")
def notebook(repository):
    return nbformat.read(repository / "docs/tutorial.ipynb", as_version=4)


def test_the_notebook_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("trian", "there is no command 'trian'; did you mean train"),
        ("train", "the following arguments are required: config"),
    ],
    ids=["exit code", "exit"],
)
def test_a_quiet_command_that_fails_says_why(notebook, command, line, monkeypatch, capsys):
    pytest.importorskip("IPython")
    monkeypatch.setattr(sys, "argv", sys.argv)
    names = {}
    exec(next(cell.source for cell in notebook.cells if cell.cell_type == "code"), names)
    with pytest.raises(RuntimeError, match="2"):
        names["hb"](command, quiet=True)
    assert line in capsys.readouterr().err


def written(cells):
    """Return what the cells print, and the kinds of what they show."""
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.get("name") == "stdout")
    return text, {kind for output in outputs for kind in output.get("data", ())}


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    notebook, repository, mini_root, tmp_path, monkeypatch
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mini").symlink_to(mini_root)
    # the kernel is a process of its own
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    resources = dict(metadata=dict(path=str(tmp_path)))
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    text, kinds = written(notebook.cells)
    assert "image/png" in kinds
    top1 = float(text.partition("top-1 ")[2].partition(" %")[0])
    assert top1 >= 50
    # the map of the last stage that 224×224 pixels have
    assert "(1, 1, 7, 7)" in text
    assert text.split()[-1] == "star"
