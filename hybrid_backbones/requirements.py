"""Checks of files and devices that commands make before they start to work.

They need nothing but PyTorch; each fails with one line.
"""

from pathlib import Path

import torch


def require_writable_file(out: Path) -> None:
    """Check that a file can be written, and create its folder if there is none.

    Raises:
        ValueError: if it cannot be written; the message gives the system's reason.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        known = out.exists()
        out.open("a").close()
        if not known:
            # another process may have tried the same
            out.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {out} ({error}): choose another file") from error


def require_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        ValueError: if this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be cpu, cuda or cuda:INDEX, got {name!r}") from error
    # GPUs are counted also where their driver is too old to use them
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = dict(cpu=1, cuda=gpus).get(device.type, 0)
    if (device.index or 0) >= count:
        raise ValueError(
            f"--device {name}: PyTorch sees {count} devices of type {device.type} here; use "
            "--device cpu, or run hb doctor"
        )
    return device
