"""Processes that train: workers that end with their parent, and how they multiply."""

from __future__ import annotations

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
