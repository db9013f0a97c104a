"""Laws of `--batch-size`: what is searched for, and that the learning rate follows."""

import json
import sys
from argparse import ArgumentTypeError, Namespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from tool_runs import ONE_EPOCH, REPOSITORY, run_warm, train

from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.training import batch_size, launch
from hybrid_backbones.training.batch_size import (
    AUTO,
    Trial,
    find_batch_size,
    heaviest_sample,
    largest_fitting,
    parse_batch_size,
    search,
    set_batch_size,
)
from hybrid_backbones.training.mixed_precision import train_in_mixed_precision
from hybrid_backbones.training.restarts import note_begin
from hybrid_backbones.training.stop import StopRequest


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 31, 99, 100, 1000])
def test_the_largest_batch_that_fits_is_found_in_few_trials(limit, most):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    assert largest_fitting(fits, most) == min(limit, most)
    assert all(1 <= size <= most for size in tried)
    assert len(tried) == len(set(tried)) <= 14


def mini_config(mini_root, name="imagenet_acmix_r26"):
    cfg = Config.fromfile(REPOSITORY / f"configs/{name}.py")
    apply_mini(cfg, mini_root)
    return cfg


class Small(Trial):
    """A device whose memory is full above five images a step."""

    limit, steps = 5, []

    def step(self, size):
        self.steps.append(size)
        # as PyTorch says it where it allocates
        if size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        super().step(min(size, 2))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(batch_size, "Trial", Small)
    monkeypatch.setattr(Small, "steps", [])
    return Small


@pytest.mark.upstream
@pytest.mark.parametrize("name", ["imagenet_acmix_r26", "fpn_uniformer_xxs"])
def test_training_steps_are_tried_until_the_memory_is_full(mini_root, small, name):
    cfg = mini_config(mini_root, name)
    settings = cfg.pretty_text
    assert search(cfg, "cpu") == 5
    assert small.steps == [2, 4, 8, 6, 5]
    assert cfg.pretty_text == settings


def test_a_memory_that_holds_no_image_is_one_clear_error(mini_root, small, monkeypatch):
    monkeypatch.setattr(small, "limit", 0)
    with pytest.raises(ValueError, match=r"do not hold one image .*--amp"):
        search(mini_config(mini_root), "cpu")


def test_an_error_that_is_not_about_memory_is_not_hidden(mini_root, small, monkeypatch):
    trial = object.__new__(Trial)
    trial.wrapper = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    trial.wrapper.optimizer = trial.wrapper
    # cuDNN may also have no engine for the dtype, until a batch has fitted
    no_engine = "GET was unable to find an engine to execute this computation"
    for text, fitted, hidden in (
        ("too many INT_MAX elements", False, True),
        ("CUDA error: out of memory", False, True),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", False, True),
        (no_engine, True, True),
        (no_engine, False, False),
        ("a bug", True, False),
    ):

        def step(size, text=text):
            raise RuntimeError(text)

        trial.step, trial.fitted = step, fitted
        if hidden:
            assert trial.fits(3) is False
        else:
            with pytest.raises(RuntimeError, match=text):
                trial.fits(3)


def test_the_optimizer_has_its_state_also_where_the_first_loss_scale_overflows(mini_root):
    cfg = mini_config(mini_root)
    cfg.optim_wrapper = train_in_mixed_precision(cfg.optim_wrapper, "cpu", "float16")
    cfg.optim_wrapper.optimizer = dict(type="AdamW", lr=1e-3)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sample = heaviest_sample(DATASETS.build(cfg.train_dataloader.dataset))
        trial = Trial(cfg, sample, "cpu")
    scale = trial.model.head.loss_module.forward
    # gradients that 2¹⁶, the first scale of PyTorch, would overflow
    trial.model.head.loss_module.forward = lambda *args, **kwargs: 64 * scale(*args, **kwargs)
    assert trial.fits(2)
    assert trial.wrapper.optimizer.state_dict()["state"]


def test_a_step_that_the_memory_ends_leaves_the_next_one_as_it_was(mini_root):
    cfg = mini_config(mini_root)
    cfg.optim_wrapper = train_in_mixed_precision(cfg.optim_wrapper, "cpu", "float16")
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sample = heaviest_sample(DATASETS.build(cfg.train_dataloader.dataset))
        trial = Trial(cfg, sample, "cpu")

    def fill(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.wrapper.optimizer, "step", fill)
        assert not trial.fits(2)
    assert trial.fits(2)


def test_the_memory_is_shared_with_what_others_hold(mini_root, monkeypatch):
    fractions = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * 2**30, 12 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(batch_size, "search", lambda cfg, device: 7)
    assert find_batch_size(mini_config(mini_root)) == 7
    assert fractions == pytest.approx([0.9 * 9 / 12, 1.0])


@pytest.mark.parametrize(
    ("auto_scale_lr", "base"),
    [(dict(enable=False, base_batch_size=64), 64), (None, 16)],
    ids=["of the recipe", "of the config"],
)
def test_the_learning_rate_follows_the_batch(auto_scale_lr, base):
    cfg = Config(dict(train_dataloader=dict(batch_size=16), auto_scale_lr=auto_scale_lr))
    line = set_batch_size(cfg, 24)
    assert cfg.train_dataloader.batch_size == 24
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=base)
    assert "24 images per process" in line
    assert f"of {base} images per step" in line


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "all", ""])
def test_other_values_are_refused(text):
    with pytest.raises(ArgumentTypeError, match="expected a number of images"):
        parse_batch_size(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_that_it_needs_one(tmp_path):
    code, _, err = run_warm(*train(tmp_path, "--batch-size", "auto", options=ONE_EPOCH))
    assert code == 1
    assert err.splitlines()[-1].startswith("error: --batch-size auto needs a GPU")
    assert err.splitlines()[-1].endswith("give a number, --batch-size N")


def save_begun(work_dir):
    """Save a checkpoint of a training that began in a work dir."""
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    meta = dict(cfg="train_dataloader = dict(batch_size=48)\n", epoch=1, iter=4, seed=0)
    torch.save(dict(state_dict={}, meta=meta, message_hub=hub), work_dir / "epoch_1.pth")
    note_begin(work_dir)


@pytest.mark.parametrize(("asked", "size"), [(AUTO, 48), (8, 8), (None, 4)])
def test_a_training_that_slurm_starts_again_has_the_size_that_it_found(
    tmp_path, monkeypatch, asked, size
):
    save_begun(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    read, reads = launch.read_checkpoint, []
    monkeypatch.setattr(launch, "read_checkpoint", lambda path: reads.append(path) or read(path))
    for name in ("_apply_flags", "choose_weights"):
        monkeypatch.setattr(launch, name, lambda *_, **__: None)
    # what comes next is not under test
    monkeypatch.setattr(launch, "adopt_settings", lambda *_: sys.exit())
    cfg = Config(dict(work_dir=str(tmp_path), train_cfg=dict(max_epochs=2)))
    cfg.train_dataloader = dict(batch_size=4)
    args = Namespace(launcher="none", resume=None, fresh_head=None, pretrained=False)
    args.cfg_options, args.batch_size = None, asked
    with pytest.raises(SystemExit):
        launch._train(args, cfg, StopRequest())
    assert cfg.train_dataloader.batch_size == size
    # it is as large as the model and its optimizer
    assert reads == [tmp_path / "epoch_1.pth"]


def test_the_learning_rate_of_a_resumed_training_is_the_checkpoints():
    cfg = Config(dict(train_dataloader=dict(batch_size=4)))
    assert set_batch_size(cfg, 2, resumes=True).endswith("learning rate is that of the checkpoint")


def test_a_resumed_training_needs_its_number(tmp_path):
    save_begun(tmp_path)
    code, _, err = run_warm(*train(tmp_path, "--resume", "--batch-size", "auto"))
    assert code == 1
    assert "--batch-size auto is for the start of a training" in err.splitlines()[-1]


@pytest.mark.slow
def test_the_command_trains_with_the_size_that_fits_and_its_learning_rate(tmp_path):
    """A GPU that is full above 23 images is faked; everything else is the user's path."""
    script = tmp_path / "train.py"
    script.write_text(
        "import runpy\n"
        "from hybrid_backbones.training import batch_size\n"
        "class Full(batch_size.Trial):\n"
        "    def fits(self, size):\n"
        "        return size <= 23\n"
        "batch_size.Trial = Full\n"
        "batch_size.find_batch_size = lambda cfg: batch_size.search(cfg, 'cpu')\n"
        "runpy.run_path('tools/train.py', run_name='__main__')\n"
    )
    command = train(tmp_path / "work", "--batch-size", "auto", options=ONE_EPOCH)
    code, out, err = run_warm(script, *command[1:])
    assert code == 0, err
    assert "--batch-size: 23 images per process is the largest that fits" in out + err
    trained = Config.fromfile(tmp_path / "work/imagenet_acmix_r26.py")
    assert trained.train_dataloader.batch_size == 23
    (path,) = (tmp_path / "work").glob("*/vis_data/scalars.json")
    rates = [json.loads(line) for line in path.read_text().splitlines()]
    content = torch.load(tmp_path / "work/epoch_1.pth", weights_only=False)
    assert content["optimizer"]["param_groups"][0]["initial_lr"] == pytest.approx(1e-3 * 23 / 16)
    assert rates


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_found_fits_on_the_gpu_and_one_more_image_does_not(mini_root):
    cfg = mini_config(mini_root)
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        size = search(cfg, "cuda")
        dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, _scope_=cfg.default_scope))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            trial = Trial(cfg, heaviest_sample(dataset), "cuda")
            assert trial.fits(size)
            assert size == len(dataset) or not trial.fits(size + 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
