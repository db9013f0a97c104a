"""The scripts that the hosts bring along run on our configs, with one command."""

import json
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from tool_runs import REPOSITORY, metric_on_file, run_warm

from hybrid_backbones.host_scripts import find_script, find_scripts, run_script
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.training.seeding import SeedSample

pytestmark = pytest.mark.upstream
try:
    IS_UPSTREAM = not distribution("onedl-mmengine")
except PackageNotFoundError:
    IS_UPSTREAM = True
# scripts of upstream's set that fail for any config, with the reason
BROKEN = {
    ("mmseg", "get_flops"): "it contradicts mmengine 0.10.7",
    ("mmseg", "analysis_tools/browse_dataset"): "it contradicts OpenCV 5",
    ("mmpretrain", "vis_cam"): "it wants grad-cam before version 1.5",
}
NAMES = dict(
    mmdet="maskrcnn_uniformer_xxs", mmseg="fpn_uniformer_xxs", mmpretrain="imagenet_swiftformer_xs"
)


@pytest.fixture(scope="module")
def folder(mini_root, tmp_path_factory):
    """A folder with a config of each host on four mini pictures, a checkpoint, and a log."""
    folder = tmp_path_factory.mktemp("scripts")
    for host, name in NAMES.items():
        cfg = Config.fromfile(REPOSITORY / f"configs/{name}.py")
        apply_mini(cfg, mini_root)
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            cfg[loader].dataset.indices = 4
            cfg[loader].update(num_workers=0, persistent_workers=False)
        cfg.work_dir = str(folder / "work_dir")
        cfg.dump(folder / f"{host}.py")
        with DefaultScope.overwrite_default_scope(host):
            settings = cfg.model.copy()
            settings.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
            model = MODELS.build(settings)
            model.init_weights()
        torch.save(dict(state_dict=model.state_dict(), meta={}), folder / f"{host}.pth")
    lines = [dict(loss=1 / i, lr=0.1, epoch=1, iter=i, step=i, time=0.1) for i in (1, 2, 3)]
    (folder / "log.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


def run(folder, host, script, *arguments):
    """Run a script; `CONFIG` and the like stand for the files of the folder."""
    names = dict(
        CONFIG=folder / f"{host}.py",
        CHECKPOINT=folder / f"{host}.pth",
        PREDICTIONS=folder / f"{host}_predictions.pkl",
        LOG=folder / "log.json",
        OUT=folder / f"{host}_{script.rpartition('/')[2]}",
    )
    words = [str(names.get(word, word)) for word in arguments]
    return run_warm("tools/run.py", host, script, *words), names["OUT"]


def each_script(table):
    """Parametrise over a table, without the scripts that fail by themselves."""
    cases = [
        pytest.param(
            *case,
            marks=pytest.mark.skipif(IS_UPSTREAM and case in BROKEN, reason=BROKEN.get(case, "")),
        )
        for case in table
    ]
    return pytest.mark.parametrize(("host", "script"), cases)


def is_picture(path):
    with Image.open(path) as picture:
        return len(picture.convert("RGB").getcolors(1 << 24)) > 1


# by host and script: its arguments, and what it says or the number of pictures in its folder
SAYS = {
    ("mmdet", "print_config"): (["CONFIG"], "UniFormer"),
    ("mmseg", "print_config"): (["CONFIG"], "UniFormer"),
    ("mmpretrain", "print_config"): (["CONFIG"], "SwiftFormer"),
    ("mmdet", "get_flops"): (["CONFIG", "--num-images", "1"], "Params: NUMBER"),
    ("mmseg", "get_flops"): (["CONFIG", "--shape", "128", "128"], "Params: NUMBER"),
    ("mmpretrain", "get_flops"): (["CONFIG", "--shape", "64"], "SwiftFormer"),
    ("mmpretrain", "confusion_matrix"): (["CONFIG", "CHECKPOINT"], "[0, "),
}
BROWSE = ["CONFIG", "--not-show", "--output-dir", "OUT"]
DRAWS = {
    ("mmdet", "browse_dataset"): (BROWSE, 4),
    ("mmseg", "analysis_tools/browse_dataset"): (BROWSE, 4),
    ("mmpretrain", "browse_dataset"): ([*BROWSE, "-n", "2"], 2),
    ("mmdet", "confusion_matrix"): (["CONFIG", "PREDICTIONS", "OUT"], 1),
    ("mmseg", "confusion_matrix"): (["CONFIG", "PREDICTIONS", "OUT"], 1),
    ("mmdet", "analyze_results"): (["CONFIG", "PREDICTIONS", "OUT", "--topk", "2"], 4),
    ("mmpretrain", "analyze_results"): (
        ["CONFIG", "PREDICTIONS", "--out-dir", "OUT", "--topk", "2"],
        1,
    ),
}
# upstream's takes the name of another library's style
STYLE = "dark" if IS_UPSTREAM else "ggplot"
PICTURES = {
    ("mmdet", "analyze_logs"): ["plot_curve", "LOG", "--keys", "loss", "--style", STYLE],
    ("mmseg", "analyze_logs"): ["LOG", "--keys", "loss"],
    ("mmpretrain", "analyze_logs"): ["plot_curve", "LOG", "--keys", "loss"],
    ("mmpretrain", "vis_scheduler"): ["CONFIG", "--not-show", "--dataset-size", "256"],
    ("mmpretrain", "vis_cam"): [
        *("PICTURE", "CONFIG", "CHECKPOINT", "--device", "cpu"),
        *("--target-layers", "backbone.stages.3"),
    ],
}


@pytest.fixture
def _no_example():
    """Remove the file that mmseg's `print_config` writes to the current folder."""
    yield
    (REPOSITORY / "example.py").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_example")
@each_script(SAYS)
def test_a_script_says_what_it_should_of_our_config(host, script, folder):
    arguments, says = SAYS[host, script]
    (code, out, err), _ = run(folder, host, script, *arguments)
    assert code == 0, err
    cfg = Config.fromfile(folder / f"{host}.py")
    with DefaultScope.overwrite_default_scope(host):
        number = sum(p.numel() for p in MODELS.build(cfg.model).parameters())
    assert says.replace("NUMBER", f"{number / 1e6:.3f}M") in out


@pytest.fixture(scope="module")
def predictions(folder):
    """Predictions of each host's own `test`; its metric is that of our command."""
    for host in NAMES:
        arguments = ["CONFIG", "CHECKPOINT", "--work-dir", folder / f"{host}_theirs"]
        (code, _, err), _ = run(folder, host, "test", *arguments, "--out", "PREDICTIONS")
        assert code == 0, err


@pytest.mark.slow
@each_script(DRAWS)
def test_a_script_draws_pictures_of_our_data_and_results(host, script, folder, predictions):
    arguments, number = DRAWS[host, script]
    (code, _, err), out = run(folder, host, script, *arguments)
    assert code == 0, err
    pictures = [path for path in out.rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(pictures) >= number
    assert all(map(is_picture, pictures))


@pytest.mark.slow
@each_script(PICTURES)
def test_a_script_draws_a_picture(host, script, folder, mini_root):
    target = folder / f"{host}_{script}.png"
    flag = "--out" if script == "analyze_logs" else "--save-path"
    picture = min((mini_root / "imagenet/val").glob("*/*"))
    arguments = [picture if word == "PICTURE" else word for word in PICTURES[host, script]]
    (code, _, err), _ = run(folder, host, script, *arguments, flag, target)
    assert code == 0, err
    assert is_picture(target)


@pytest.mark.slow
def test_the_hosts_test_measures_what_ours_does(folder, predictions):
    config, checkpoint = folder / "mmpretrain.py", folder / "mmpretrain.pth"
    ours = folder / "ours"
    code, _, err = run_warm("tools/test.py", config, checkpoint, "--work-dir", ours)
    assert code == 0, err
    assert metric_on_file(folder / "mmpretrain_theirs") == metric_on_file(ours)


def test_a_wrong_name_gets_one_line():
    with pytest.raises(ValueError, match=r"expected one of mmdet, mmseg, mmpretrain, got mmpose"):
        find_scripts("mmpose")
    with pytest.raises(ValueError, match=r"no script get_flop; did you mean get_flops"):
        find_script("mmdet", "get_flop")
    with pytest.raises(ValueError, match=r"analysis_tools/browse_dataset or misc/browse_dataset"):
        find_script("mmseg", "browse_dataset")
    assert find_script("mmdet", "browse_dataset").parent.name == "analysis_tools"
    assert find_script("mmseg", "misc/browse_dataset.py").parent.name == "misc"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "import a_package_that_nobody_has",
            r"script plot cannot import.*a_package_that_nobody_has",
        ),
        ("open('missing.py')", r"script plot does not find a file: .*missing\.py"),
    ],
    ids=["package", "file"],
)
def test_a_script_that_lacks_something_says_what(line, message, tmp_path, monkeypatch):
    script = tmp_path / "plot.py"
    script.write_text(line)
    monkeypatch.setattr(
        "hybrid_backbones.host_scripts.find_scripts", lambda host: dict(plot=script)
    )
    with pytest.raises(ValueError, match=message):
        run_script("mmdet", "plot", [])
    # as before: a training without the seeded sampler is refused
    with pytest.raises(ValueError, match="SeedSample needs"):
        SeedSample().transform(dict(sample_idx=3))


def test_a_config_with_own_data_is_refused(tmp_path, monkeypatch):
    script = tmp_path / "plot.py"
    script.write_text("raise AssertionError")
    monkeypatch.setattr(
        "hybrid_backbones.host_scripts.find_scripts", lambda host: dict(plot=script)
    )
    config = tmp_path / "screws.py"
    config.write_text("own_data = dict(root='/data/screws')")
    with pytest.raises(ValueError, match=r"screws\.py has own_data, which scripts of mmdet do not"):
        run_script("mmdet", "plot", [str(config)])


def test_the_command_lists_scripts_and_passes_on_their_flags():
    code, out, _ = run_warm("tools/run.py", "mmpretrain")
    assert code == 0
    assert "visualization/vis_cam" in out.split()
    code, out, _ = run_warm("tools/run.py", "mmdet", "print_config", "--help")
    assert code == 0
    assert "--save-path" in out
