"""The rooms of the package: imports point one way, and underscored names stay in their file."""

import ast
import re
import subprocess
import sys
from pathlib import Path


def test_imports_keep_the_contracts(repository):
    command = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [command, "--no-cache", "--no-logo"], cwd=repository, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", run.stdout)


def underscored_names(path):
    """Return the underscored names that a file defines, and those that it uses."""
    defined, used = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            (defined if isinstance(node.ctx, ast.Store) else used).add(name)
    return tuple({x for x in names if re.match("_(?!_)", x)} - {"_"} for names in (defined, used))


def test_no_underscored_name_of_a_file_is_used_in_another(repository):
    files = {
        str(path.relative_to(repository)): underscored_names(path)
        for path in sorted((repository / "hybrid_backbones").rglob("*.py"))
    }
    ours = set().union(*(defined for defined, _ in files.values()))
    reached = {file: (used - defined) & ours for file, (defined, used) in files.items()}
    assert {file: names for file, names in reached.items() if names} == {}
