"""What the build of the site adds to it: tables, files of the repository, a notebook."""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

from hybrid_backbones.benchmark import overview

ROOT = Path(__file__).resolve().parent.parent


def read_file(name):
    """Return a page of the repository, with its links to other ones as those of the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace("(CHANGELOG.md)", "(changelog.md)").replace("](docs/", "](")


# what stands in a page as `<!-- KIND: ARGUMENT -->`
PARTS = {
    "configs": overview.configs_table,
    "file": read_file,
    "overview": lambda _: overview.overview_table("."),
    "variants": overview.variants_table,
    "weights": overview.weights_table,
}


def on_page_markdown(markdown, **_):
    """Put the parts into a page; mkdocs calls this."""
    pattern = rf"^<!-- ({'|'.join(PARTS)}): (\S+) -->$"
    return re.sub(pattern, lambda part: PARTS[part[1]](part[2]), markdown, flags=re.MULTILINE)


def as_page(notebook):
    """Return a notebook as a page in Markdown."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + "\n"


def on_files(files, config):
    """Add the notebook as a page; mkdocs calls this."""
    notebook = json.loads((ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, "tutorial.md", content=as_page(notebook)))
    return files
