"""`tools/weights.py`, and names of published checkpoints in the other commands."""

import re
from hashlib import sha256

import pytest
from helpers import golden_files, published_weights
from safetensors.torch import save
from tool_runs import ONE_EPOCH, evaluate, metric_on_file, run, run_warm, train
from weights_server import checkpoint, kept, serve

from hybrid_backbones.checkpoints import PUBLISHED, read_state_dict

NAME = "swiftformer_xs_first_release"
CONFIG = f"configs/{PUBLISHED[NAME].config}.py"
FIRST_RELEASE = "model.backbone.first_release=True"


def weights(*arguments, **environment):
    """Run the command; return its exit code, the lines of its output and the last of its errors."""
    code, out, err = run_warm("tools/weights.py", *arguments, **environment)
    return code, out.splitlines(), err.strip().splitlines()[-1:]


@pytest.mark.upstream
def test_weights_are_listed_downloaded_and_verified(tmp_path):
    code, lines, _ = weights("list", "first_release")
    assert code == 0
    assert [line.split()[0] for line in lines] == [n for n in PUBLISHED if "first_release" in n]
    content = checkpoint()
    with serve() as server:
        address = server.add("/a.pth", content)
        code, lines, _ = weights("get", address, TORCH_HOME=str(tmp_path))
    assert (code, lines[-1]) == (0, str(*kept(tmp_path)))
    code, lines, _ = weights("verify", lines[-1])
    assert code == 0
    assert sha256(content).hexdigest() in lines[0]


# the arguments, and what the line says
MISTAKES = {
    "no such pattern": (("list", "swft"), "no published name contains 'swft'"),
    "no such name": (("get", "unifomer_small_in1k"), "did you mean .*uniformer_small_in1k"),
    "dead": (("get", "biformer_tiny_in1k"), "all addresses of biformer_tiny_in1k are dead"),
    "no server": (("get", "http://127.0.0.1:9/a.pth"), "cannot download .*refused"),
    "no such file": (("verify", "absent.pth"), "no file at 'absent.pth'"),
    "no checkpoint": (("verify", "README.md"), "cannot read 'README.md'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(mistake, tmp_path):
    arguments, says = MISTAKES[mistake]
    code, _, (error,) = weights(*arguments, TORCH_HOME=str(tmp_path))
    assert code == 1
    assert re.match(rf"error: .*{says}", error), error
    assert kept(tmp_path) == []


def six_classes(golden):
    """Return the golden weights of a published classifier, cut to the classes of the mini set."""
    weights = published_weights(golden)
    return {name: x[:6] if "head." in name else x for name, x in weights.items()}


@pytest.mark.slow
def test_a_name_is_evaluated_and_then_starts_a_training_without_a_server(tmp_path):
    ((_, golden),) = golden_files("swiftformer_xs_transformers.json")
    published = six_classes(golden)
    cache = str(tmp_path / "cache")
    environment = dict(HF_HOME=cache, TORCH_HOME=cache)
    with serve() as server:
        server.add("/MBZUAI/swiftformer-xs/resolve/main/model.safetensors", save(published))
        command = evaluate(tmp_path / "test", NAME, "--cfg-options", FIRST_RELEASE, config=CONFIG)
        code, out, err = run(*command, **environment, HF_ENDPOINT=server.url)
    assert code == 0, err
    assert "downloaded hf-hub:MBZUAI/swiftformer-xs: " in out
    assert "licence of the weights: none is stated" in out
    assert 0 <= metric_on_file(tmp_path / "test") <= 100

    options = [*ONE_EPOCH, FIRST_RELEASE, f"load_from={NAME}", "optim_wrapper.optimizer.lr=0"]
    command = train(tmp_path / "train", config=CONFIG, options=options)
    code, out, err = run(*command, **environment, HF_HUB_OFFLINE="1")
    assert code == 0, err
    trained = read_state_dict(tmp_path / "train/epoch_1.pth")
    for entry, name in [
        ("backbone.stem.0.weight", "swiftformer.patch_embed.patch_embedding.0.weight"),
        ("head.paired_fc.weight", "dist_head.weight"),
    ]:
        assert trained[entry].equal(published[name])
