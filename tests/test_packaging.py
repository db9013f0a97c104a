"""Versions, dependencies and metadata are stated once, or agree."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hybrid_backbones
from hybrid_backbones import doctor, installation
from hybrid_backbones.installation import ONEDL, UPSTREAM, install_command

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# file of pins: the extra whose packages it installs
SETS = {"requirements.txt": "openmmlab", "requirements/upstream.txt": "upstream"}
OLDEST = "requirements/oldest.txt"
DOCS = "requirements/docs.txt"


def by_name(lines):
    """Return the requirements of this Python by the names of their packages."""
    all_of_them = map(Requirement, lines)
    asked = (one for one in all_of_them if one.marker is None or one.marker.evaluate())
    return {canonicalize_name(one.name): one for one in asked}


def read_pins(file):
    """Read a requirements file, with the files that it includes."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    included = [Path(file).parent / line[3:] for line in lines if line.startswith("-r ")]
    pins = by_name(line for line in lines if line and not line.startswith("-"))
    for one in included:
        pins |= read_pins(one)
    return pins


def pinned_version(requirement):
    """Return the version of `name==version`, or None of a range."""
    (one,) = requirement.specifier
    return one.version if one.operator == "==" else None


def ranges(*extras):
    return by_name(sum((EXTRAS[extra] for extra in extras), PROJECT["dependencies"]))


@pytest.mark.parametrize(("file", "extra"), SETS.items(), ids=SETS.values())
def test_each_dependency_is_pinned_within_its_range(file, extra):
    pins, admitted = read_pins(file), ranges(extra, "deploy", "playground", "dev")
    assert pins.keys() == admitted.keys()
    for name, pin in pins.items():
        version = pinned_version(pin)
        if version is None:
            assert pin.specifier == admitted[name].specifier
        else:
            assert admitted[name].specifier.contains(version), f"{pin} is not in {admitted[name]}"


def test_the_documentation_has_pins_of_its_own_within_their_ranges():
    pins, admitted = read_pins(DOCS), by_name(EXTRAS["docs"])
    assert pins.keys() == admitted.keys()
    for name, pin in pins.items():
        assert admitted[name].specifier.contains(pinned_version(pin)), name


def test_the_oldest_versions_are_the_lower_ends_of_the_ranges():
    admitted, pins = ranges("openmmlab", "dev"), read_pins(OLDEST)
    assert ranges("openmmlab").keys() <= pins.keys()
    for name, pin in pins.items():
        lower = [one.version for one in admitted[name].specifier if one.operator == ">="]
        assert [Version(pinned_version(pin))] == [Version(one) for one in lower], name


def test_the_readme_names_the_pinned_versions():
    install = re.search(r"^## Install\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    named = dict(re.findall(r"`?([a-z][\w-]+)`? (\d+(?:\.\d+)+)", install[1]))
    pins = {}
    for file, extra in SETS.items():
        sets = {name for name in by_name(EXTRAS[extra]) if "mm" in name} | {"torch"}
        pins |= {name: pinned_version(pin) for name, pin in read_pins(file).items() if name in sets}
    assert named == pins


def test_versions_in_messages_and_pages_are_the_pinned_ones():
    allowed = {str(pin) for file in SETS for pin in read_pins(file).values()}
    # compiled with CUDA, it has the name without -lite
    allowed |= {pin.replace("mmcv-lite", "mmcv") for pin in allowed}
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("hybrid_backbones/**/*.py")]
    named = {
        (path.name, pin)
        for path in files
        for pin in re.findall(r"\b[a-z][\w-]*==\d+(?:\.\d+)+", path.read_text())
    }
    assert named
    assert {pin for _, pin in named} <= allowed, named


def test_the_doctor_knows_the_packages_of_both_sets():
    for extra, names in {"openmmlab": ONEDL, "upstream": UPSTREAM}.items():
        packages = {name for name in by_name(EXTRAS[extra]) if "mm" in name}
        assert packages == set(names) - {"mmcv"}
    setuptools = str(by_name(EXTRAS["upstream"])["setuptools"])
    assert f'pip install "{setuptools}"' in dict(doctor.REMEDIES).values()


@pytest.mark.parametrize("present", [ONEDL, UPSTREAM, ()], ids=["onedl", "upstream", "none"])
def test_messages_say_how_to_install_the_set_in_use(monkeypatch, present):
    monkeypatch.setattr(installation, "installed", lambda names: names if names == present else [])
    assert installation.IN_CHECKOUT
    file = install_command().removeprefix("pip install -r ")
    assert SETS[file] == ("upstream" if present == UPSTREAM else "openmmlab")
    monkeypatch.setattr(installation, "IN_CHECKOUT", False)
    assert install_command() == f'pip install "{PROJECT["name"]}[{SETS[file]}]"'


def texts_of(path):
    """Return the strings of a file that are neither docstrings nor comments."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [one.value for one in strings if isinstance(one.value, str) and id(one) not in alone]


def test_no_message_names_a_file_that_a_wheel_does_not_have():
    # pages of the documentation, which are written in a checkout
    pages = {"deploy/page.py", "explain/page.py", "cli/reference.py"}
    pages |= {f"benchmark/{name}.py" for name in ("page", "reproduce", "zoo")}
    package = ROOT / "hybrid_backbones"
    named = {
        (str(path.relative_to(package)), text)
        for path in package.rglob("*.py")
        for text in texts_of(path)
        if re.search(r"\btools/|\brequirements[/.]", text)
    }
    files = {file for file, _ in named}
    assert files == {"installation.py", *pages}


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_pages_name_the_wheel_of_this_version(page):
    wheels = re.findall(r"hybrid_backbones-([\w.]+)-py3-none-any\.whl", (ROOT / page).read_text())
    assert wheels == [hybrid_backbones.__version__]


def test_every_place_names_the_same_python_versions():
    prefix = "Programming Language :: Python :: 3."
    classified = [
        one.removeprefix(prefix[:-2]) for one in PROJECT["classifiers"] if one.startswith(prefix)
    ]
    assert PROJECT["requires-python"] == f">={classified[0]}"
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"Python (3\.\d+)\sto\s(3\.\d+)", readme) == [(classified[0], classified[-1])]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == classified
    assert matrix["requirements"] == [*SETS]
    assert matrix["include"] == [dict(python=classified[0], requirements=OLDEST)]


def test_hooks_come_from_the_environment():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    assert {hook["language"] for hook in repositories[0]["hooks"]} == {"system"}


def test_the_version_can_be_read_without_importing_the_package():
    tree = ast.parse((ROOT / "hybrid_backbones" / "__init__.py").read_text())
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert PROJECT["dynamic"] == ["version"]
    assert [Version(ast.literal_eval(value)).release for value in values]


def imported_packages():
    for path in [*ROOT.glob("hybrid_backbones/**/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module


def top_level_names(distribution):
    """Return what can be imported of an installed distribution."""
    try:
        one = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return set()
    if listed := one.read_text("top_level.txt"):
        return set(listed.split())
    return {file.parts[0].removesuffix(".py") for file in one.files or ()}


@pytest.mark.upstream
def test_every_imported_package_is_declared():
    # golden is the folder in tests/
    others = {"hybrid_backbones", "golden", *sys.stdlib_module_names}
    imported = {name.partition(".")[0] for name in imported_packages()} - others
    declared = set(ranges(*EXTRAS))
    # triton can be absent, and has the name of its distribution
    assert imported <= declared.union(*map(top_level_names, declared))


def brought_by(requirements):
    """Return the names of all distributions that requirements install here."""
    left, found = [*requirements], set()
    while left:
        one = left.pop()
        asked = (canonicalize_name(one.name), frozenset(one.extras))
        if asked in found:
            continue
        found.add(asked)
        try:
            needs = map(Requirement, metadata.requires(one.name) or ())
        except metadata.PackageNotFoundError:
            continue
        extras = [dict(extra=extra) for extra in ("", *one.extras)]
        left += [n for n in needs if n.marker is None or any(map(n.marker.evaluate, extras))]
    return {name for name, _ in found}


def test_a_backbone_is_built_with_nothing_but_what_its_extra_brings():
    brought = brought_by(ranges("backbones").values())
    absent = [
        module
        for module, providers in metadata.packages_distributions().items()
        if module != "hybrid_backbones" and brought.isdisjoint(map(canonicalize_name, providers))
    ]
    assert {"mmcv", "mmdet", "mmpretrain", "mmseg"} <= {*absent}
    script = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))
import torch, hybrid_backbones
maps = hybrid_backbones.create_backbone("uniformer_xxs")(torch.rand(1, 3, 64, 64))
print(len(maps))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
