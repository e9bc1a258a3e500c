"""Processes that train: workers that end with their parent, how they multiply and keep memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import threading
from functools import cache


def end_with_parent() -> None:
    """Initialiser of a worker: if its parent is killed, so is the worker.

    It would else wait for work for ever, or go on with what nobody waits for.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@cache
def quick_products() -> None:
    """Let PyTorch multiply float32 matrices by oneDNN, twice as fast as MKL on some processors.

    MKL keeps processors of another maker to half the vector width they have. oneDNN is asked for
    by a lower precision, which most processors do not have and so ignore; where products do become
    coarser (bfloat16 tiles), the setting is taken back.
    """
    import torch

    torch.set_float32_matmul_precision("medium")
    # As large as a batch in a hidden layer: small products may go another way.
    a = torch.arange(128 * 1280.0).sin().reshape(128, 1280)
    b = torch.arange(512 * 1280.0).cos().reshape(512, 1280)
    error = (a @ b.T).double() - a.double() @ b.double().T
    if float(error.abs().max()) > 1e-2:
        torch.set_float32_matmul_precision("highest")


_TRIM, _PAD, _MAP = -1, -2, -3
"""Numbers of glibc's ``mallopt``: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD."""


@cache
def keep_memory() -> None:
    """Let the allocator keep what tensors of up to 128 MB free, 2 GB in all, for the next ones.

    glibc gives blocks of 32 MB and more back to the system at once and fetches them anew, page by
    page: for systems that read maps that is half of their time. Larger blocks stay as they are:
    kept, they would leave holes that the next one does not fit (neighbours of 50,000 rows took
    20 GB instead of 3). Other allocators have no such setting, and nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; on Windows there is no CDLL(None)
        return
    for option, size in ((_MAP, 2**27), (_TRIM, 2**31 - 1), (_PAD, 2**26)):
        mallopt(option, size)


def quick_training() -> None:
    """:func:`quick_products` and :func:`keep_memory`: for every process that trains."""
    quick_products()
    keep_memory()
