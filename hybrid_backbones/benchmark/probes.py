"""Measurements of one call: time, memory, multiply-accumulates."""

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .counts import zeros_like_outputs

# that the calls of one time on a GPU fill, in milliseconds
QUEUE_MS = 5


def time_call(function: Callable[[], Any], *, device: str = "cpu", repeats: int) -> dict:
    """Time calls of a function, after two warm-up calls.

    PyTorch's own timer warms up anew before each measurement, which triples the time of slow
    references, or chooses the number of calls itself.

    On a GPU each time is the mean of so many calls, one queued after the other, that they fill
    `QUEUE_MS`; one call by itself would take at least the time of its launch.

    Returns:
        median, minimum and maximum in milliseconds.
    """
    if device == "cpu":
        times = [_time_on_cpu(function) for _ in range(2 + repeats)][2:]
    else:
        *_, one = (_time_on_gpu(function, 1) for _ in range(3))
        # no launch takes less than a microsecond
        calls = math.ceil(QUEUE_MS / max(one, 1e-3))
        times = [_time_on_gpu(function, calls) for _ in range(repeats)]
    return dict(median=median(times), min=min(times), max=max(times))


def _time_on_cpu(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def _time_on_gpu(function: Callable[[], Any], calls: int) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(calls):
        function()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / calls


def extra_memory(function: Callable[[], Any], *, device: str = "cpu") -> float | None:
    """Measure the peak growth of memory during a call.

    On the CPU this is the resident memory of the process, which only Linux reports. Call it in a
    fresh process (:func:`run_alone`), because an allocator may reuse memory of earlier calls.

    Returns:
        growth in MiB, or None on the CPU of another system.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not sys.platform.startswith("linux"):
        return None
    # the maximum that `getrusage` reports includes that of the parent process before `exec`
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _read_status("VmRSS")
    function()
    return (_read_status("VmHWM") - before) / 2**10


def _read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))  # KiB


class Process:
    """Process that importable functions are called in; it starts with the first call."""

    def __init__(self):
        self._pool: ProcessPoolExecutor | None = None

    def run(self, function: Callable, *args: Any, limit: float | None = None, **kwargs: Any) -> Any:
        """Call a function and return its result.

        Args:
            function: importable function.
            args: its arguments.
            limit: seconds after which the process is killed.
            kwargs: its keyword arguments.

        Raises:
            RuntimeError: if the process dies, or is killed; errors of the function are raised as
                they are.
        """
        self._pool = self._pool or ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            number = self._pool.submit(os.getpid).result()
            call = self._pool.submit(function, *args, **kwargs)
            if wait([call], limit).not_done:
                os.kill(number, signal.SIGKILL)
                self.stop()
                raise RuntimeError(f"stopped after {limit:.4g} s, the limit for it")
            return call.result()
        except BrokenProcessPool:
            raise RuntimeError("the process died, most likely for lack of memory") from None

    def stop(self) -> None:
        """End the process; the next call starts another."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def run_alone(function: Callable, *args: Any, limit: float | None = None, **kwargs: Any) -> Any:
    """Call an importable function in a fresh process and return its result; see `Process.run`."""
    process = Process()
    try:
        return process.run(function, *args, limit=limit, **kwargs)
    finally:
        process.stop()


def capture(function: Callable[[], Any]) -> Callable[[], None]:
    """Record the kernels that a call launches in a CUDA graph; return what launches them again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # kernels are compiled and chosen before they are recorded
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class _CountAttention(TorchFunctionMode):
    """Mode that counts the multiply-accumulates of attention instead of computing it.

    Counts two for each channel of a logit that the mask keeps: query by key, weight by value.
    PyTorch's counter ignores the kernels for CPUs, and would include masked logits of tiles.
    """

    macs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._count(*args, **(kwargs or {}))

    def _count(self, query: Tensor, key: Tensor, value: Tensor, attn_mask=None, **_) -> Tensor:
        macs = query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        if attn_mask is not None and not attn_mask.is_meta:
            hidden = 0 if attn_mask.dtype == torch.bool else float("-inf")
            macs = macs * int((attn_mask != hidden).sum()) // attn_mask.numel()
        self.macs += macs
        return query.new_zeros(*query.shape[:-1], value.shape[-1])


class _SkipCostly(TorchDispatchMode):
    """Mode in which the products that PyTorch counts, and sampling, give zeros of their shape."""

    skipped = frozenset({*flop_registry, torch.ops.aten.grid_sampler_2d})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        call = partial(func, **(kwargs or {}))
        is_costly = func.overloadpacket in self.skipped
        return zeros_like_outputs(call, args) if is_costly else call(*args)


def count_macs(model: nn.Module, *shapes: Sequence[int]) -> int:
    """Count the multiply-accumulates of one call with tensors of these shapes.

    Includes convolutions, linear layers, matrix products, and attention for the logits that its
    mask keeps; excludes normalisation, activations, and sums and products of two maps. On a CPU,
    window attention consists of matrix products, which are counted without regard to masks. What is
    counted is not computed, so that values which depend on it are wrong. A model on the meta device
    is counted without any computation; masks have no values there, so attention is counted in full.
    """
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else "cpu"
    trainable = [p for p in parameters if p.requires_grad]
    # not by `no_grad`, under which views of parameters still require gradients
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        # the mode that is entered last sees an operation first
        with (
            _SkipCostly(),
            FlopCounterMode(display=False) as counter,
            _CountAttention() as attention,
        ):
            model(*(torch.zeros(shape, device=device) for shape in shapes))
    finally:
        for parameter in trainable:
            parameter.requires_grad_()
    return counter.get_total_flops() // 2 + attention.macs
