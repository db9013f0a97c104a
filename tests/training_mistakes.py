"""What users do wrong with a training: rows for the table of mistakes.

Each is the command, made in an empty folder, what the one line must say, and its exit code if that
is not 1.
"""

import json

import torch
from tool_runs import CONFIG, REPOSITORY, SHORT, train

from hybrid_backbones.mini.shapes import CLASSES


def other_checkpoint(tmp):
    torch.save(dict(state_dict={"backbone.conv1.weight": torch.zeros(1)}), tmp / "other.pth")
    return tmp / "other.pth"


def a_file(tmp):
    (tmp / "file").touch()
    return tmp / "file"


def config(text):
    """Return what makes a config that goes on with the smallest network's."""

    def write(tmp):
        base = f"_base_ = {str(REPOSITORY / CONFIG)!r}\n"
        (tmp / "own.py").write_text(text.replace("BASE\n", base))
        return tmp / "own.py"

    return write


def without_images(tmp):
    """Return the option for a validation on no image."""
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    (tmp / "none.json").write_text(
        json.dumps(dict(images=[], annotations=[], categories=categories))
    )
    return f"val_dataloader.dataset.ann_file={tmp / 'none.json'}"


def with_options(*options, config=CONFIG):
    return lambda tmp: train(tmp, config=config, options=options)


def with_config(text):
    return lambda tmp: train(tmp, config=config(text)(tmp), options=())


TRAINING_MISTAKES = {
    "no imagenet": (
        lambda tmp: ("tools/train.py", CONFIG, "--work-dir", tmp),
        r"nowhere.*Set IMAGENET_ROOT.*train.*--mini",
    ),
    "no coco": (
        lambda tmp: ("tools/train.py", "configs/maskrcnn_r50.py", "--work-dir", tmp),
        r"nowhere.*Set COCO_ROOT.*instances_train2017\.json.*--mini",
    ),
    "no ade": (
        lambda tmp: ("tools/train.py", "configs/upernet_r50.py", "--work-dir", tmp),
        r"nowhere.*Set ADE_ROOT.*images/training.*--mini",
    ),
    "unknown flag": (lambda tmp: train(tmp, "--rseume"), r"unrecognized.*--rseume", 2),
    "no config": (
        lambda tmp: ("tools/train.py", "configs/none.py"),
        r"no config at configs/none\.py",
    ),
    "folder as config": (
        lambda tmp: ("tools/train.py", "configs"),
        r"no config at configs: check the path",
    ),
    "config in another language": (
        lambda tmp: ("tools/train.py", "README.md"),
        r"cannot read.*README\.md.*py/yml/yaml/json",
    ),
    "syntax error in the config": (
        with_config("BASE\nmodel = dict(\n"),
        r"cannot read the config.*own\.py.*line 2",
    ),
    "unknown name in the config": (
        with_config("BASE\n\nmodel = dict(depth=fifty)\n"),
        r"own\.py: NameError: name 'fifty' is not defined.*own\.py, line 3",
    ),
    "no such base of the package": (
        with_config("_base_ = 'hybrid_backbones::maskrcnn_acmix_r5.py'\n"),
        r"cannot read the config.*configs/NAME\.py; did you mean maskrcnn_acmix_r50",
    ),
    "no base of the config": (
        with_config("_base_ = 'none.py'\n"),
        r"cannot read the config.*own\.py.*none\.py",
    ),
    "nothing in the config": (with_config(""), r"own\.py does not set default_scope, model:"),
    "no optimiser in the config": (
        lambda tmp: (
            *("tools/train.py", config("BASE\noptim_wrapper = None\n")(tmp)),
            *("--work-dir", tmp),
        ),
        r"own\.py does not set optim_wrapper:",
    ),
    "nothing to resume": (lambda tmp: train(tmp, "--resume"), r"no checkpoint in .*leave --resume"),
    "resume from weights alone": (
        lambda tmp: train(tmp, "--resume", other_checkpoint(tmp)),
        r"does not say how far.*set load_from",
    ),
    "work dir is a file": (lambda tmp: train(a_file(tmp)), r"cannot write to the work dir"),
    "option without a value": (
        with_options("model.backbone.depth"),
        r"expected KEY=VALUE, got 'model\.backbone\.depth'",
        2,
    ),
    "option with an open bracket": (
        with_options("model.backbone.out_indices=(1,2"),
        r"bracket is not closed in .*\(1,2",
        2,
    ),
    "misspelt section": (
        with_options("optim_wraper.optimizer.lr=1"),
        r"optim_wraper\.optimizer\.lr: the config has no 'optim_wraper'; .*mean optim_wrapper",
    ),
    "misspelt hook": (
        with_options("default_hooks.chekpoint.interval=2"),
        r"default_hooks has no 'chekpoint'; did you mean checkpoint",
    ),
    "misspelt part of the model": (
        with_options("model.bakbone.depth=50"),
        r"ImageClassifier.*'bakbone'.*did you mean backbone",
    ),
    "misspelt setting of the backbone": (
        with_options("model.backbone.dept=50"),
        r"ACmixResNet.*'dept'.*did you mean .*depth",
    ),
    "misspelt setting of the optimiser": (
        with_options("optim_wrapper.optimizer.weigth_decay=0"),
        r"AdamW.*'weigth_decay'.*did you mean weight_decay",
    ),
    "misspelt setting of a dataloader": (
        with_options("train_dataloader.batchsize=2"),
        r"no 'batchsize'; did you mean batch_size",
    ),
    "element that is not there": (
        with_options("param_scheduler.7.end=2"),
        r"param_scheduler has 2 elements.*no 7",
    ),
    "part of a number": (
        with_options("train_dataloader.batch_size.all=2"),
        r"batch_size is 16, which has no all",
    ),
    "text as number of epochs": (
        with_options("train_cfg.max_epochs=abc"),
        r"train_cfg\.max_epochs: expected a number, as 8.*got 'abc'",
    ),
    "rates instead of a rate": (
        with_options("optim_wrapper.optimizer.lr=[0.1]"),
        r"optimizer\.lr: expected a number, as 0\.001 .*got \[0\.1\]",
    ),
    "number instead of hooks": (
        with_options("custom_hooks=5"),
        r"custom_hooks: expected a list of dicts, .*KEY\.NUMBER\.NAME=VALUE.*got 5",
    ),
    "no epochs": (
        with_options("train_cfg.max_epochs=0"),
        r"max_epochs must be a positive integer, got 0",
    ),
    "half an epoch": (
        with_options("train_cfg.max_epochs=0.5"),
        r"max_epochs must be a positive integer, got 0\.5",
    ),
    "negative batch size": (
        with_options("train_dataloader.batch_size=-1"),
        r"batch_size should be a positive.*-1",
    ),
    "negative number of workers": (
        with_options("train_dataloader.num_workers=-1"),
        r"num_workers option should be non-neg",
    ),
    "persistent workers without workers": (
        with_options("train_dataloader.persistent_workers=True"),
        r"persistent_workers option needs",
    ),
    "negative learning rate": (
        with_options("optim_wrapper.optimizer.lr=-1"),
        r"optimizer.*Invalid learning rate: -1",
    ),
    "unknown depth": (with_options("model.backbone.depth=51"), r"depth must be one of.*51"),
    "another size with the neck of the old": (
        with_options("model.backbone.arch=l3", config="configs/retinanet_swiftformer_l1.py"),
        r"model\.neck\.in_channels is \[.*set model\.neck\.in_channels=\[128,320,512\]",
    ),
    "another size with the heads of the old": (
        with_options("model.backbone.arch=l3", config="configs/upernet_swiftformer_l1.py"),
        r"set model\.decode_head\.in_channels=\[64,128,320,512\]",
    ),
    "another size with the classifier of the old": (
        with_options("model.backbone.arch=l3", config="configs/imagenet_swiftformer_xs.py"),
        r"model\.head\.in_channels is \d+, .* 512 channels: set model\.head\.in_channels=512",
    ),
    "fewer maps than the heads read": (
        with_options(
            "model.backbone.out_indices=(2,3)", config="configs/upernet_swiftformer_l1.py"
        ),
        r"decode_head\.in_index is \[0, 1, 2, 3\], but the backbone returns 2 maps",
    ),
    "seed below zero": (
        with_options("randomness.seed=-1"),
        r"randomness\.seed .*Seed must be between 0 and",
    ),
    "text as rate of stochastic depth": (
        with_options(
            "model.backbone.drop_path_rate=high", config="configs/imagenet_swiftformer_xs.py"
        ),
        r"drop_path_rate.*number.*'high'",
    ),
    "stages in parts": (
        with_options("model.backbone.frozen_stages=2.0"),
        r"frozen_stages must be an integer from -1 to 4, got 2\.0",
    ),
    "no model": (with_options("model=None"), r"does not set model"),
    "a log without intervals": (
        with_options("default_hooks.logger.interval=0"),
        r"LoggerHook of the config: interval must be greater than 0",
    ),
    "scaling without a batch size": (
        lambda tmp: train(tmp, "--auto-scale-lr", options=["auto_scale_lr=None"]),
        r"--auto-scale-lr needs auto_scale_lr\.base_batch_size",
    ),
    "unknown network": (
        with_options("model.backbone.type=ACmixRestNet"),
        r"no model called ACmixRestNet; did you mean ACmixResNet",
    ),
    "unknown optimiser": (
        with_options("optim_wrapper.optimizer.type=AdamV"),
        r"no optimizer called AdamV; did you mean Adam",
    ),
    "batch larger than the set": (
        with_options("train_dataloader.dataset.indices=10"),
        r"set has 10 samples, less than a batch of 16.*drop_last",
    ),
    "empty set": (
        with_options("train_dataloader.dataset.indices=0"),
        r"a data set of the config is empty, CustomDataset of .*mini",
    ),
    "empty validation set": (
        lambda tmp: train(tmp, config="configs/retinanet_r50.py", options=[without_images(tmp)]),
        r"annotation file .*/none\.json lists no image to evaluate on",
    ),
    "diverging": (
        with_options(*SHORT, "optim_wrapper.optimizer.lr=1e20"),
        r"(loss|weights).*iteration \d+.*Lower the learning rate",
    ),
}
