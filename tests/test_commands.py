"""The console command `hb` is a table of the tools."""

import runpy
import subprocess
import sys
from importlib import import_module

import pytest

import hybrid_backbones
from hybrid_backbones.benchmark.settings import Settings, describe
from hybrid_backbones.cli.main import COMMANDS, import_command, main
from hybrid_backbones.installation import install_command

# scripts that only those who work on the project run, in its checkout
ONLY_HERE = {"deploy_page", "inside", "make_golden", "model_zoo", "overview"}


def test_every_tool_is_a_command(repository):
    tools = {path.stem for path in (repository / "tools").glob("*.py")}
    assert {module for module, _ in COMMANDS.values()} == tools - ONLY_HERE


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_tool_are_the_same(name, repository, monkeypatch, capsys):
    module = COMMANDS[name][0]
    monkeypatch.setattr(sys, "argv", [f"{module}.py", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(repository / f"tools/{module}.py"), run_name="__main__")
    # what is imported may print, too
    _, of_tool = capsys.readouterr().out.split("usage: ")
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    _, of_command = capsys.readouterr().out.split("usage: ")
    assert of_command.startswith(f"hb {name} ")
    # the usage is wrapped at other places
    assert of_command.split()[2:] == of_tool.split()[1:]
    assert f"hb {name}" in import_module(f"hybrid_backbones.cli.{module}").__doc__.split("`")


def test_help_lists_all_commands_without_importing_them(monkeypatch, capsys):
    monkeypatch.setattr("hybrid_backbones.cli.main.import_module", None)
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) is None
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if line.startswith("  ")] == [*COMMANDS]
    assert main(["--version"]) is None
    assert capsys.readouterr().out == f"hybrid-backbones {hybrid_backbones.__version__}\n"


def test_an_unknown_command_gets_one_line(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "hb: error: there is no command 'trian'; did you mean train?\n"
    )


def test_a_mistake_in_a_command_names_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hb"])
    with pytest.raises(SystemExit) as end:
        main(["train", "imagenet_acmix_r26", "--rseume"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "hb train: error: unrecognized arguments: --rseume"
    )


def test_ctrl_c_while_packages_are_imported_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hybrid_backbones.cli.main.import_module", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "\nstopped by SIGINT while packages were imported\n"


@pytest.mark.parametrize(
    ("library", "line", "program"),
    [
        ("mmcv", "main(['train', 'maskrcnn_acmix_r50', '--mini'])", "hb train"),
        ("mmengine", "runpy.run_path('tools/train.py', run_name='__main__')", "train.py"),
    ],
)
def test_a_library_that_is_missing_gets_one_line(library, line, program, repository):
    script = f"""
import runpy, sys
sys.modules[{library!r}] = None
sys.argv[0] = "tools/train.py"
from hybrid_backbones.cli.main import main
{line}
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 1
    assert done.stderr == f"error: {program} needs {library}: {install_command()}\n"


def test_a_library_that_is_broken_or_another_keeps_its_traceback(monkeypatch):
    for name in ("mmcv.ops", "nothing"):

        def broken(*_, name=name):
            raise ModuleNotFoundError(name=name)

        monkeypatch.setattr("hybrid_backbones.cli.main.import_module", broken)
        with pytest.raises(ModuleNotFoundError):
            import_command("train")


def test_a_table_names_the_command_that_measured_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hb benchmark", "ops"])
    assert describe(Settings((8, 8)))["command"].endswith("hb benchmark ops")


def test_the_command_is_a_module_for_launchers_of_processes():
    command = [sys.executable, "-m", "hybrid_backbones.cli"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.stdout == f"hybrid-backbones {hybrid_backbones.__version__}\n", done.stderr
    # its exit code is that of the program
    assert subprocess.run([*command, "trian"], capture_output=True).returncode == 2
