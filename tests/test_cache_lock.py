"""A lock that another process holds for long is waited for, however long that takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cbir_lite import _cache

HOLDER = """
import sys, time
from pathlib import Path
from cbir_lite import _cache
target = Path(sys.argv[1])
with _cache.lock(target):
    print("held", flush=True)
    time.sleep(3)
    target.write_text("done")
"""


def test_a_lock_that_is_held_for_three_seconds_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "features.npy"
    command = [sys.executable, "-c", HOLDER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with _cache.lock(target):
            # Not at once after the two seconds, when it is told that somebody waits.
            assert target.read_text() == "done"
    assert holder.returncode == 0
    assert f"waiting for another process that is filling {target}" in capsys.readouterr().err
