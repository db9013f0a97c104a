"""Laws of the leaderboard's page and table, without any training."""

import csv
import re
import shutil
import subprocess

import pytest

from hybrid_backbones.benchmark import board_page
from hybrid_backbones.benchmark.board_page import save_board, write_board
from hybrid_backbones.cli import leaderboard as commands
from hybrid_backbones.config_files import SPEEDS


def page_of(runs, **others):
    out = runs[0].folder.parent
    settings = dict(program="hb leaderboard", arguments="", speeds=[]) | others
    save_board(out, runs, **settings)
    write_board(out)
    return (out / "leaderboard.md").read_text()


def row_of(page, name):
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` | ")][:1]
    return row.split(" | ")


def test_the_page_has_mean_and_deviation_of_seeds_and_the_best_config_first(make):
    good = [
        make("maskrcnn_uniformer_s", seed, {"metrics": {"coco/bbox_mAP": 0.60 + 0.04 * seed}})
        for seed in (0, 1)
    ]
    best = make("maskrcnn_biformer_s", 0, {"metrics": {"coco/bbox_mAP": 0.7}})
    page = page_of([*good, best])
    # a sample of 60 and 64
    assert row_of(page, "maskrcnn_uniformer_s")[1:3] == [
        "box AP 62.0 ± 2.8",
        "box AP 45.6, mask AP 41.6",
    ]
    assert row_of(page, "maskrcnn_uniformer_s")[-1] == "0, 1 |"
    assert row_of(page, "maskrcnn_biformer_s")[1] == "box AP 70.0"
    assert page.index("| `maskrcnn_biformer_s`") < page.index("| `maskrcnn_uniformer_s`")
    assert "## Mask R-CNN on the mini set" in page
    assert "no benchmark of quality" in page
    assert "3 of 3 runs are finished" in page


def test_the_page_says_what_failed_and_what_is_missing(make):
    failed, waiting = make("maskrcnn_r50"), make("retinanet_r50")
    failed.fail("the GPU's memory\nis | full")
    page = page_of([failed, waiting])
    assert "failed with seed 0: the GPU's memory is \\| full" in page
    assert row_of(page, "retinanet_r50")[1] == "1 of 1 not finished"
    assert "accuracy_params.png" not in page


def test_the_page_names_pictures_that_exist(make):
    run = make("maskrcnn_r50", 0, {})
    page = page_of([run])
    for name in ("accuracy_params.png", "accuracy_macs.png", "accuracy_latency.png"):
        assert f"({name})" in page
        assert (run.folder.parent / name).is_file()


def test_the_page_names_the_networks_that_are_not_the_smallest(make):
    names = ["maskrcnn_biformer_s", "maskrcnn_biformer_b", "maskrcnn_r50", "mine"]
    names += ["imagenet_swiftformer_l1", "imagenet_uniformer_s", "retinanet_acmix_r26"]
    lines = page_of([make(name) for name in names]).splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- `maskrcnn_biformer_s`: BiFormer `small`; `tiny` is smaller, "
        "no config of this method has it",
        "- `imagenet_swiftformer_l1`: SwiftFormer `l1`; `xs` is smaller, "
        "`imagenet_swiftformer_xs` has it",
    ]
    assert "is smaller" not in page_of([make("imagenet_swiftformer_xs"), make("maskrcnn_r50")])


def test_the_page_says_how_long_a_training_took(make):
    page = page_of([make("maskrcnn_r50", 0, dict(train_seconds=90)), make("retinanet_r50", 0, {})])
    assert [row_of(page, name)[6] for name in ("maskrcnn_r50", "retinanet_r50")] == ["1.5", "-"]


def test_the_page_says_on_which_machine_each_row_was_measured(make, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        board_page, "draw_board", lambda panels, cost, _: drawn.update({cost: panels})
    )
    places = {"maskrcnn_r50": ("a GPU", 16), "maskrcnn_acmix_r50": ("a CPU", 1)}
    runs = [make(name, 0, dict(device=d, threads=n)) for name, (d, n) in places.items()]
    page = page_of(runs)
    assert row_of(page, "maskrcnn_r50")[9] == "a GPU, 16 CPU threads"
    assert row_of(page, "maskrcnn_acmix_r50")[9] == "a CPU, 1 CPU thread"
    # parameters and FLOPs are the same on both
    for cost, expected in {"inference (ms)": 2, "parameters (M)": 1, "FLOPs (G)": 1}.items():
        (points,) = drawn[cost].values()
        assert len({point.place for point in points}) == expected


def test_the_page_says_why_a_cost_is_missing(make):
    runs = [make("maskrcnn_r50"), make("upernet_r50", scope="mmseg")]
    page = page_of(runs, speeds=[SPEEDS])
    assert re.search(r"`maskrcnn_r50` \| 0.001 M \| [\d.]+ h on .*H100", page)
    assert "| `upernet_r50` | 0.001 M | - |" in page
    assert "no config of its framework was\nmeasured" in page


@pytest.mark.parametrize("shown", ["python tools/leaderboard.py", "hb leaderboard"])
def test_the_commands_of_real_runs_are_accepted(make, tmp_path, repository, monkeypatch, shown):
    own = tmp_path / "my own.py"
    own.write_text("_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'")
    ade = make("upernet_r50", scope="mmseg", gpus=4)
    page = page_of([make("maskrcnn_r50"), make("my own", config=own), ade], program=shown)
    scripts = re.findall(r"```bash\n(configs=.*?)```", page, re.DOTALL)
    assert [script.count(shown) for script in scripts] == [2, 2]
    # each command notes its arguments
    functions = 'note() { printf \'%s\\n\' "$@" END; }; torchrun() { note torchrun "$@"; }\n'
    done = subprocess.run(
        ["bash", "-euc", functions + "".join(scripts).replace(shown, "note leaderboard")],
        **dict(capture_output=True, text=True, check=True),
    )
    called = [text.split("\n")[:-1] for text in done.stdout.split("END\n")[:-1]]
    assert [name for name, *_ in called] == ["leaderboard", "leaderboard", "torchrun"] * 2
    plans = []
    monkeypatch.setattr(commands, "lead", lambda plan, *_, **__: plans.append(plan) or 0)
    for name, *arguments in called:
        assert name == "torchrun" or commands.main(arguments) == 0
    assert [(plan.launcher, plan.processes) for plan in plans] == [
        (launcher, gpus) for gpus in (8, 4) for launcher in ("slurm", "torchrun")
    ]
    files = [repository / "configs/maskrcnn_r50.py", own], [repository / "configs/upernet_r50.py"]
    assert [plan.files() for plan in plans] == [group for group in files for _ in range(2)]
    # while Slurm has the runs of a folder, no others begin there
    assert plans[0].out != plans[2].out
    alone = [called[i][2:7] for i in (2, 5)]
    assert alone == [
        [gpus, "-m", "hybrid_backbones.cli", "train", name]
        for gpus, name in (("8", "maskrcnn_r50"), ("4", "upernet_r50"))
    ]


def test_the_table_has_a_line_for_each_run_with_all_figures(make):
    runs = [make("maskrcnn_r50", 0, {}), make("maskrcnn_r50", 1)]
    runs[1].fail("no")
    page_of(runs)
    with (runs[0].folder.parent / "leaderboard.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["coco/bbox_mAP_50"] == "0.6"
    assert first["weights_sha256"] == "ab" * 32
    assert first["latency_ms"] == "50.0"
    assert (second["seed"], second["state"], second["error"]) == ("1", "failed", "no")


def test_finished_runs_of_an_earlier_command_stay_on_the_page(make):
    first = make("maskrcnn_r50", 0, {})
    waiting = make("fasterrcnn_r50")
    assert "Earlier commands" not in page_of([first, waiting])
    page = page_of([make("retinanet_r50", 0, {}), make("retinanet_r50", 1)])
    assert row_of(page, "maskrcnn_r50")[1] == "box AP 40.0, mask AP 30.0, box AP50 60.0"
    assert "2 of 3 runs are finished" in page
    assert "Earlier commands left 1 of them" in page
    # what they have not finished is theirs to begin again
    assert "`fasterrcnn_r50`" not in page
    with (first.folder.parent / "leaderboard.csv").open() as file:
        names = [row["config"] for row in csv.DictReader(file)]
    assert names == ["retinanet_r50", "retinanet_r50", "maskrcnn_r50"]
    (first.folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has results of maskrcnn_r50_0, but no run\.json"):
        page_of([waiting])


def test_a_seed_without_a_metric_leaves_the_scores_of_the_others(make):
    runs = [make("maskrcnn_r50", seed, {}) for seed in (0, 1)]
    runs.append(make("maskrcnn_r50", 2, {"metrics": {}}))
    nothing = make("retinanet_r50", 0, {"metrics": {}})
    page = page_of([*runs, nothing])
    assert row_of(page, "maskrcnn_r50")[1] == (
        "box AP 40.0 ± 0.0, mask AP 30.0 ± 0.0, box AP50 60.0 ± 0.0; no metric with seed 2"
    )
    assert row_of(page, "retinanet_r50")[1] == "no metric with seed 0"


def test_a_damaged_result_and_a_removed_folder_stop_no_page(make):
    damaged, removed = make("maskrcnn_r50", 0, {}), make("fasterrcnn_r50", 0, {})
    page_of([make("retinanet_r50", 0, {})])
    (damaged.folder / "result.json").write_text('{"metrics": {')
    shutil.rmtree(removed.folder)
    out = damaged.folder.parent
    write_board(out)
    page = (out / "leaderboard.md").read_text()
    assert "`fasterrcnn_r50`" not in page
    assert "1 of 2 runs are finished" in page
    (words,) = row_of(page, "maskrcnn_r50")[1:2]
    assert re.fullmatch(
        r"failed with seed 0: .*result\.json is damaged \(.*\): remove it, .*", words
    )


def test_other_settings_of_a_config_have_a_row_of_their_own(make):
    page_of([make("maskrcnn_r50", 0, {}, digest="34" * 32)])
    page = page_of([make("maskrcnn_r50", 1, {})])
    rows = [line for line in page.splitlines() if line.startswith("| `maskrcnn_r50` | box AP 40.0")]
    assert sorted(row.split(" | ")[-3] for row in rows) == ["`12121212`", "`34343434`"]


def test_the_same_settings_are_one_row_wherever_the_config_is(make, tmp_path):
    page_of([make("maskrcnn_r50", 0, {})])
    page = page_of([make("maskrcnn_r50", 1, {}, config=tmp_path / "maskrcnn_r50.py")])
    assert row_of(page, "maskrcnn_r50")[-1] == "0, 1 |"


def test_a_picture_of_results_that_are_gone_is_removed(make, tmp_path):
    run = make("maskrcnn_r50", 0, {})
    page_of([run])
    (run.folder / "result.json").unlink()
    page_of([run])
    assert not list(tmp_path.glob("accuracy_*.png"))
