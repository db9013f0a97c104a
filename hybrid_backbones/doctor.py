"""Diagnosis of an installation: what training needs, what is missing, and how to repair it.

This file must run where nothing else does, so it imports only the standard library at the top. The
checks import the rest, and report a failing import as a finding. tools/doctor.py runs this file by
its path, without importing the package, and hands it the names of installation.py.
"""

import glob
import importlib
import io
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from typing import NamedTuple

if __package__:
    from .installation import ONEDL, UPSTREAM, install_command, installed


class Finding(NamedTuple):
    """One line of the report: what was found, the problem if there is one, and its remedy."""

    subject: str
    found: str
    problem: str = ""
    remedy: str = ""
    fatal: bool = False  # training cannot start

    @property
    def state(self) -> str:
        """Severity of the finding: 'ok', 'note' or 'problem'."""
        return ("problem" if self.fatal else "note") if self.problem else "ok"


# submodules that training imports, by package; ours precedes mmcv, which may need its stand-in
HOST = ("models", "datasets", "evaluation", "engine")
PACKAGES: dict[str, tuple[str, ...]] = dict(torch=(), torchvision=("ops",), mmengine=("runner",))
PACKAGES |= dict(hybrid_backbones=("ops",), mmcv=("ops",), mmdet=HOST, mmseg=HOST, mmpretrain=HOST)

# pattern of an error and its remedy; the first match counts, {} is the installation command
REMEDIES = (
    # of mmpretrain beside a release of transformers that lacks what it imports
    (r"NoneType takes no arguments", 'pip install "transformers<5"'),
    (r"No module named 'pkg_resources", 'pip install "setuptools<82"'),
    (r"No module named '(hybrid_backbones|torch|torchvision|mm\w+)'", "{}"),
    (r"No module named 'cv2|libGL", "pip install --force-reinstall opencv-python-headless"),
    (r"No module named '(?!hybrid|torch|mm)(\w+)", r"pip install \1"),
    (r"incompatible", "{}"),
    (r"torchvision", "pip install --force-reinstall torch torchvision, both from one index"),
    (r"CUDA", "install the torch that https://pytorch.org names for this GPU and driver"),
    (r"", "{} --force-reinstall"),
)

# environment variable, default folder and required paths of each dataset; folders end in a slash
DATA = {
    "COCO": (
        "COCO_ROOT",
        "data/coco/",
        "annotations/instances_train2017.json annotations/instances_val2017.json "
        "train2017/ val2017/",
    ),
    "ADE20K": (
        "ADE_ROOT",
        "data/ade/ADEChallengeData2016/",
        "images/training/ images/validation/ annotations/training/ annotations/validation/",
    ),
    # one folder for each class
    "ImageNet": ("IMAGENET_ROOT", "data/imagenet/", "train/*/ val/*/"),
}
MIN_FREE_GIB = 10  # a long run keeps several checkpoints of half a GiB


def check_python() -> Iterator[Finding]:
    """Report the versions of Python and the platform; this file requires Python 3.10."""
    yield Finding("Python", f"{platform.python_version()}, {platform.platform()}")


def check_packages() -> Iterator[Finding]:
    """Import every package, with the submodules that training needs."""
    providers = metadata.packages_distributions()
    failed = set()
    for package, parts in PACKAGES.items():
        error = _try(_import, package, *(f"{package}.{part}" for part in parts))
        top = package.partition(".")[0]
        names = sorted(set(providers.get(top, ())))
        number = getattr(sys.modules.get(top), "__version__", None)
        found = " and ".join(f"{number or metadata.version(name)} from {name}" for name in names)
        found = found or (f"{number} from a folder" if number else "not installed")
        if error is None:
            yield Finding(package, found)
            continue
        failed.add(package)
        missing = getattr(error, "name", None) or ""
        # the only module of another package that ours provides
        needed = "hybrid_backbones" if missing == "mmcv._ext" else missing.partition(".")[0]
        if needed in failed - {package}:
            problem = f"cannot be imported without {needed}"
            yield Finding(package, found, problem, "see there", fatal=True)
        else:
            yield _fail(package, found, error)


def check_sets() -> Iterator[Finding]:
    """Find distributions that overwrite each other's files."""
    onedl, upstream = installed(ONEDL), installed(UPSTREAM)
    both = [*onedl, *upstream]
    mixed = (onedl and upstream) or {"mmcv", "mmcv-lite"} <= set(upstream)
    problem = "overwrite each other's files, as they provide the same packages" if mixed else ""
    remedy = f"pip uninstall -y {' '.join(both)}, then {install_command()}"
    yield Finding("distributions", ", ".join(both) or "none", problem, remedy)


def check_mmcv_operators() -> Iterator[Finding]:
    """Report whether mmcv's operators are compiled or come from the stand-in."""
    if _try(_import, "hybrid_backbones", "mmcv.ops") is None:
        is_standin = sys.modules["hybrid_backbones"].mmcv_ops.is_standin()
        yield Finding("mmcv operators", "stand-in on torchvision" if is_standin else "compiled")


def check_devices() -> Iterator[Finding]:
    """Find the devices, and run NMS and mixed precision on each."""
    if _try(_import, "torch", "torchvision"):
        return
    import torch

    cpu = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}"
    yield from _check_device("cpu", cpu)
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(i)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB"
        yield from _check_device(
            f"cuda:{i}", f"{gpu.name}, {memory}, compute capability {gpu.major}.{gpu.minor}"
        )
    if torch.cuda.is_available():
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding("cuda", "no device: training runs on the CPU")
    else:
        build = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}"
        remedy = "install the torch that https://pytorch.org names for the driver's CUDA version"
        yield Finding("cuda", build, "does not see the GPU that nvidia-smi knows", remedy)


def check_load() -> Iterator[Finding]:
    """Find other jobs on the processor, whose threads and those of a training delay each other."""
    if not hasattr(os, "getloadavg"):  # on Windows
        return
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    problem = "is crowded: where threads of several jobs share a core, all wait" * (load > cores)
    remedy = "wait, or start each job with OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE"
    yield Finding("processor", f"{load:.1f} of {cores} cores in use", problem, remedy)


def _check_device(device: str, found: str) -> Iterator[Finding]:
    import torch
    import torchvision

    def suppress() -> None:
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
        torchvision.ops.nms(boxes, boxes[:, 2], 0.5)

    error = _try(suppress)
    if error is not None:
        yield _fail(device, found, error)
        return
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    errors = {name: _try(_train_with_autocast, device, dtype) for name, dtype in kinds.items()}
    amp = ", ".join(f"{name} {'no' if error else 'yes'}" for name, error in errors.items())
    if device != "cpu" and torch.cuda.get_device_capability(device) < (8, 0):
        amp += " (bf16 emulated, slow)"
    yield Finding(device, f"{found}; AMP: {amp}")


def _train_with_autocast(device: str, dtype) -> None:
    import torch

    layer = torch.nn.Conv2d(3, 8, 3).to(device)
    with torch.autocast(device.partition(":")[0], dtype):
        out = layer(torch.ones(1, 3, 8, 8, device=device))
    out.float().sum().backward()
    grad = layer.weight.grad
    if out.dtype != dtype or grad is None or not grad.isfinite().all():
        raise RuntimeError(f"autocast computed in {out.dtype}")


def check_triton() -> Iterator[Finding]:
    """Report whether Triton kernels can run."""
    if _try(_import, "torch", "triton"):
        yield Finding("triton", "not available: PyTorch implementations are used")
        return
    torch, version = sys.modules["torch"], sys.modules["triton"].__version__
    if not torch.cuda.is_available():
        yield Finding("triton", f"{version}, unused without a CUDA device")
        return
    if _try(_import, "hybrid_backbones.ops.triton_support"):
        return  # the findings about packages say why
    support = sys.modules["hybrid_backbones.ops.triton_support"]
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        problem = support.unsupported_reason(device, torch.float32) or ""
        remedy = "mend it, or go on with the implementations in PyTorch, which are slower"
        yield Finding("triton", f"{version} on {device}", problem, remedy)


def check_compiler() -> Iterator[Finding]:
    """Report the C++ compiler that PyTorch finds, which `--compile` needs on a CPU."""
    if _try(_import, "torch.utils.collect_env"):
        return
    env = sys.modules["torch.utils.collect_env"]
    found = env.get_gcc_version(env.run) or env.get_clang_version(env.run) or "none"
    problem = "is not there" if found == "none" else ""
    yield Finding("C++ compiler", found, problem, "install one, or train without --compile")


def check_data() -> Iterator[Finding]:
    """Check which datasets are complete."""
    for name, (variable, default, expected) in DATA.items():
        root = os.environ.get(variable, default)
        paths = {one: os.path.join(glob.escape(root), one) for one in expected.split()}
        missing = [one for one, path in paths.items() if not glob.glob(path)]
        if not missing:
            yield Finding(name, f"{root}, complete")
        elif not os.path.isdir(root):
            remedy = f"set {variable} to a folder with {' '.join(missing)}, or use --mini"
            yield Finding(name, root, "does not exist", remedy)
        else:
            remedy = f"complete it, set {variable} to another folder, or use --mini"
            yield Finding(name, root, f"lacks {' '.join(missing)}", remedy)


def check_work_dirs() -> Iterator[Finding]:
    """Check whether results can be written, and the free space for them."""
    folder = "work_dirs" if os.path.lexists("work_dirs") else "."
    try:
        tempfile.TemporaryFile(dir=folder).close()
        free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        remedy = "make it a writable folder, or give --work-dir"
        yield Finding("work_dirs", "not writable", str(error), remedy, fatal=True)
        return
    problem = "may be too little for checkpoints" if free < MIN_FREE_GIB else ""
    yield Finding("work_dirs", f"{free:.1f} GiB free", problem, "free space, or give --work-dir")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (check_python, check_packages, check_sets)
CHECKS += (check_mmcv_operators, check_devices, check_load, check_triton, check_compiler)
CHECKS += (check_data, check_work_dirs)


def _import(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)


def _try(function: Callable, *args) -> Exception | None:
    """Call a function with its output suppressed, and return its error, if any."""
    noise = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
            warnings.simplefilter("ignore")
            function(*args)
    except Exception as error:  # a broken installation can raise anything
        return error
    return None


def _fail(subject: str, found: str, error: Exception) -> Finding:
    problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    matches = ((re.search(pattern, f"{subject} {problem}"), text) for pattern, text in REMEDIES)
    remedy = next(match.expand(text) for match, text in matches if match)
    return Finding(subject, found, problem, remedy.format(install_command()), fatal=True)


def _print_table(findings: list[Finding]) -> None:
    """Print a coloured table on a terminal, and plain lines into a pipe or without rich."""
    if sys.stdout is None or not sys.stdout.isatty() or _try(_import, "rich.console", "rich.table"):
        for f in findings:
            print(f"{f.subject:<24}{f.state:<8} {f.found}")
        return
    from rich.console import Console
    from rich.table import Table

    styles = dict(ok="green", note="yellow", problem="red")
    table = Table("", "", "found")
    for f in findings:
        table.add_row(f.subject, f.state, f.found, style=styles[f.state])
    Console(markup=False).print(table)


def main() -> int:
    """Print all findings; return 1 if training cannot start, else 0."""
    findings = []
    for check in CHECKS:
        error = _try(lambda check=check: findings.extend(check()))
        if error is not None:
            findings.append(_fail(check.__name__.removeprefix("check_"), "not examined", error))
    fatal = any(f.fatal for f in findings)
    try:
        _print_table(findings)
        for f in findings:
            if f.problem:
                print(f"{f.state}: {f.subject} ({f.found}) {f.problem} -> {f.remedy}")
        print("Training cannot start." if fatal else "Training can start.", flush=True)
    except BrokenPipeError:  # the reader has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(fatal)
