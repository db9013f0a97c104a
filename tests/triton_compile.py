"""Compile kernels for a GPU that is not here: finds what only the interpreter accepts."""

import torch

# what one program may take of the GPUs with the least of those that run the kernels, in bytes
MAX_SHARED_MEMORY = 99 * 2**10


def compile_launches(function, *args, **kwargs):
    """Call a function whose launches of kernels only compile them, for an H100.

    It runs in a process of its own, by `run_alone`, without TRITON_INTERPRET.

    Returns:
        (name, bytes of shared memory) of each launched kernel, in order.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    class Absent:
        """What Triton asks of the GPU in order to compile."""

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

        def get_active_torch_device(self):
            return torch.device("cpu")

    compiled, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((self.fn.__name__, kernel.metadata.shared))
        return kernel

    triton.runtime.driver.set_active(Absent())
    JITFunction.run = compile_only
    function(*args, **kwargs)
    return compiled
