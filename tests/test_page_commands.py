"""The shell blocks of the pages run in the folder of a user, and write the files that they name.

They run one after the other, a command that several have once, as they stand but for three things:
trainings and evaluations take a few images, exports compile nothing to compare with, and what an
earlier block would have trained for minutes is a network with random weights, or one of two epochs
where accuracy is asked for.
"""

import re
from ast import literal_eval

import pytest
from demo_cases import save_network
from doc_blocks import REPOSITORY, blocks, lines_and_commands
from mmengine.config import Config
from PIL import Image
from tiers import few_of
from tool_runs import run_warm

from hybrid_backbones.cli.main import COMMANDS
from hybrid_backbones.mini.preset import apply_mini

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
# commands that need more than this machine or minutes: a pattern, and the test that runs the same
# tool, which the file names; the first that matches counts
ELSEWHERE = {
    r"^pip install|^python -m pytest": ".ci/run",
    r"leaderboard.* --launcher": "tests/benchmark/test_launchers.py",
    r"leaderboard": "tests/tools/test_leaderboard.py",
    r"tools/dist_train\.sh": "tests/tools/test_train.py",
    r"^torchrun": "tests/tools/test_clusters.py",
    r"SKETCH_ROOT=": "tests/locformer/test_real.py",
    r"tools/run\.py": "tests/tools/test_run.py",
    r"tools/check_data\.py screws": "tests/tools/test_check_data.py",
    r"train\.py \S+ --fresh-head --batch-size": "tests/training/test_batch_size.py",
    r"screws\.py|train\.py my_config|_ROOT=\S+ python tools/train": "tests/test_real_data.py",
    r"--tta": "tests/training/test_test_time.py",
    r"tools/benchmark\.py": "tests/benchmark/test_command.py",
    r"tools/playground\.py": "tests/playground/test_command.py",
    r"tools/reparameterize\.py|merged\.pth": "tests/deploy/test_reparameterize.py",
    r"tools/reproduce\.py": "tests/benchmark/test_reproduce.py",
    r"tools/weights\.py convert": "tests/checkpoints/test_convert.py",
    # published weights are downloaded
    r"tools/weights\.py|test\.py \S+ (maskrcnn_uniformer_s|uniformer_small_in1k)": (
        "tests/tools/test_weights.py"
    ),
}
# commands that no test runs, and why
PARSED_ONLY = {
    r"^pre-commit": "its hooks are the programs that .ci/run runs itself",
    r"^(srun|touch|export|exit|\[) |scontrol": "of jobs of Slurm, which is not there",
}
# of a tool: the function of tool_runs.py that returns its command, or the module that it calls
HELPERS = {
    "train": " train(",
    "test": " evaluate(",
    "leaderboard": "hybrid_backbones.benchmark.launchers",
}
# exports in 8 bits, of a network that has to be trained; what many networks look at; and LocFormer
LONG = re.compile(r"export\.md-0|README\.md-7|inside\.md-([1-9]|\d\d)|locformer\.md")
CHECKPOINT = re.compile(r"work_dirs/(\w+)_mini/(?:epoch|iter)_(\d+)\.pth")
FEW = {
    "train": ["train_dataloader.dataset.indices=4", "val_dataloader.dataset.indices=4"],
    "test": ["test_dataloader.dataset.indices=4"],
}


def blocks_of_pages():
    for page in PAGES:
        for number, block in enumerate(blocks(page.read_text(), "bash")):
            yield f"{page.relative_to(REPOSITORY)}-{number}", block.code


def place_of(line, table=ELSEWHERE):
    """Return what tests a command that does not run here; None for one that does."""
    return next((place for part, place in table.items() if re.search(part, line)), None)


BLOCKS = dict(blocks_of_pages())
LINES = {line: words for code in BLOCKS.values() for line, words in lines_and_commands(code)}
HERE = {
    name: [
        words
        for line, words in lines_and_commands(code)
        if place_of(line) is None and place_of(line, PARSED_ONLY) is None
    ]
    for name, code in BLOCKS.items()
}
HERE = {name: found for name, found in HERE.items() if found}


def tool_of(words):
    """Return the name of a command's tool, and the arguments."""
    if words[0] == "hb":
        name, *arguments = words[1:]
        return COMMANDS[name][0], arguments
    return re.fullmatch(r"tools/(\w+)\.py", words[1])[1], words[2:]


def options_of(words):
    return words[words.index("--cfg-options") + 1 :] if "--cfg-options" in words else []


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A function that returns a checkpoint of a network with random weights, of a mini config."""
    folder = tmp_path_factory.mktemp("stand_ins")

    def save(name, length, options):
        cfg = Config.fromfile(REPOSITORY / f"configs/{name}.py")
        for key, value in (option.split("=") for option in options):
            if key.startswith("model."):
                cfg.merge_from_dict({key: literal_eval(value)})
        apply_mini(cfg, REPOSITORY / "data/mini")
        ends = (cfg.train_cfg.get("max_epochs"), cfg.train_cfg.get("max_iters"))
        assert int(length) in ends, "the page names another checkpoint than the last one"
        return save_network(folder, name, cfg)

    return save


@pytest.fixture(scope="module")
def home(tmp_path_factory, mini_root):
    """The folder of a user, who has the mini set and a photo."""
    home = tmp_path_factory.mktemp("home")
    for name in ("configs", "tools"):
        (home / name).symlink_to(REPOSITORY / name)
    (home / "data").mkdir()
    (home / "data/mini").symlink_to(mini_root)
    with Image.open(mini_root / "coco/val2017/000000000034.png") as picture:
        picture.convert("RGB").save(home / "photo.jpg")
    return home


@pytest.fixture(scope="module")
def done():
    """The commands that have run in the user's folder."""
    return set()


@pytest.mark.parametrize("name", few_of(HERE, *(x for x in HERE if not LONG.search(x))))
def test_a_block_runs_and_writes_what_it_names(name, home, done, stand_in):
    if "--int8" in BLOCKS[name]:
        train_briefly(home)
    for words in HERE[name]:
        if words == ["hb", "--help"]:
            continue
        tool, arguments = tool_of(words)
        # a config may be given by its path or by its name
        command = (tool, *(re.sub(r"^configs/(\w+)\.py$", r"\1", word) for word in arguments))
        if command in done:
            continue
        for word in arguments:
            trained = CHECKPOINT.fullmatch(word)
            if trained and not (home / word).exists():
                (home / word).parent.mkdir(parents=True, exist_ok=True)
                (home / word).symlink_to(stand_in(*trained.groups(), options_of(words)))
        if tool == "export":
            # the report alone has what compilers make of it, after minutes
            arguments.append("--no-compile")
        if tool in FEW:
            arguments += [*([] if options_of(words) else ["--cfg-options"]), *FEW[tool]]
        code, out, err = run_warm(f"tools/{tool}.py", *arguments, PWD=str(home))
        assert code == 0, f"{words}\n{err}"
        for file in written(words):
            assert (home / file).stat().st_size, f"{words}\n{out}"
        done.add(command)


def train_briefly(home):
    """Train the network that is exported in 8 bits, which must not cost it accuracy."""
    name = "imagenet_swiftformer_xs"
    command = ("tools/train.py", f"configs/{name}.py", "--mini")
    code, _, err = run_warm(*command, "--cfg-options", "train_cfg.max_epochs=2", PWD=str(home))
    assert code == 0, err
    work_dir = home / f"work_dirs/{name}_mini"
    (work_dir / "epoch_2.pth").replace(work_dir / "epoch_8.pth")


def written(words):
    """Return the files and folders that a command says it writes."""
    files = [words[words.index("--out") + 1]] if "--out" in words else []
    if "--what" in words:
        files += [f"{files[0]}/{words[words.index('--what') + 1]}.{end}" for end in ("png", "npz")]
    if "export" in words[1]:
        files += [word for word in words if word.endswith(".onnx")]
    return files


@pytest.mark.parametrize("line", [line for line in LINES if place_of(line)])
def test_a_command_that_runs_elsewhere_is_one_of_a_test_that_names_its_tool(line):
    words = LINES[line]
    if words[0] == "hb" or words[1].startswith("tools/"):
        tool = tool_of(words)[0]
        names = [f"{tool}.py", HELPERS.get(tool, f"{tool}.py")]
    else:
        names = [words[0]]
    text = (REPOSITORY / place_of(line)).read_text()
    assert any(name in text for name in names), names


def test_each_row_of_the_tables_is_of_a_command():
    for table in (ELSEWHERE, PARSED_ONLY):
        assert {place_of(line, table) for line in LINES} - {None} == set(table.values())
    assert len(HERE) > 20
