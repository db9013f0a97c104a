"""What the build of the site adds to it: files of the repository, a notebook."""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown, **_):
    """Put in files for `<!-- file: NAME -->`, and link the notebook as a page; for mkdocs."""
    filled = re.sub(r"^<!-- file: (\S+) -->$", read_file, markdown, flags=re.MULTILINE)
    return filled.replace("(tutorial.ipynb)", "(tutorial.md)")


def read_file(part):
    """Return a file of the repository, with its links to other ones as those of the site."""
    text = (ROOT / part[1]).read_text(encoding="utf-8")
    return text.replace("(CHANGELOG.md)", "(changelog.md)").replace("](docs/", "](")


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
