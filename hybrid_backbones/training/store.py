"""The store of a job, a table of names and values that all processes read and write."""

import os
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore


def connect(patience: timedelta) -> Store:
    """Connect to the store of the job, apart from the connection of the process group.

    torchrun keeps the store when it starts the processes again, with all that those before have
    written, so each start has a part of its own.

    Args:
        patience: how long to wait for an answer.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=patience)
    return PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
