"""How the tests spread over processes: a system's tests stay together, else a file's do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SYSTEMS = {p.stem for p in Path(__file__).parents[1].glob("cbir_lite/methods/*/*.py")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one system share its fits, which live in one process."""
    for item in items:
        file = item.nodeid.split("::")[0]
        own = re.search(r"/test_(\w+)\.py", file)
        group = own[1] if own and own[1] in SYSTEMS else file
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        if group.endswith("test_battery.py") and isinstance(name, str):
            group = name.split("/")[0]
        item.add_marker(pytest.mark.xdist_group(group))
