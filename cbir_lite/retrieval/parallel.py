"""The one place that starts Numba's parallel kernels."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numba

# Below about a tenth of a millisecond of work, waking a second thread costs more than it saves.
_SMALL = 2**17
# Numba's fallback threading layer ends the process if two threads start kernels at once.
_LOCK = Lock()


def launch(kernel: Any, work: int, *arguments: Any) -> None:
    """Run ``kernel(*arguments)`` on Numba's current threads, or on one if ``work`` is small.

    ``work``: array cells the kernel visits. The thread count is what Numba was given
    (``NUMBA_NUM_THREADS`` or ``numba.set_num_threads``) and is left as it was.
    """
    with _LOCK:
        threads = numba.get_num_threads()
        if work < _SMALL:
            numba.set_num_threads(1)
        try:
            kernel(*arguments)
        finally:
            numba.set_num_threads(threads)
