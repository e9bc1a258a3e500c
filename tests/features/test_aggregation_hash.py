"""Systems import ``features/aggregation.py``, which is in no ``code_hash``: this test stands in."""

from __future__ import annotations

import hashlib
import inspect
import sys
from types import ModuleType

from cbir_lite.bench.run import _read_module
from cbir_lite.features import aggregation
from cbir_lite.methods import registry

KNOWN = "972f1588aa17"


def importers() -> list[str]:
    """Ids of the systems whose module, or a helper that it imports, imports the module."""
    return [
        id_
        for id_, cls in registry.classes().items()
        if any(aggregation in vars(m).values() for m in _modules(sys.modules[cls.__module__]))
    ]


def _modules(main: ModuleType) -> list[ModuleType]:
    """What a ``code_hash`` holds: a system's module and the helpers that it imports."""
    found, waiting = [main], [main]
    while waiting:
        more = [m for m in _read_module(waiting.pop())[1] if m not in found]
        found += more
        waiting += more
    return found


def test_what_aggregation_computes_has_not_changed() -> None:
    found = hashlib.sha256(_read_module(aggregation)[0].encode()).hexdigest()[:12]
    assert found == KNOWN, (
        f"{inspect.getsourcefile(aggregation)} computes something else ({found}): records of the "
        "systems that import it have to be measured again (remove them from book/results and run "
        f"`cbir bench`), then change the hash in this test. They are {', '.join(importers())}."
    )


def test_its_importers_are_found() -> None:
    found = importers()
    assert {"rmac", "solar", "gordo_dir", "spatial_channel_contrib"} <= set(found)
    assert not {"itq", "dpsh", "neural_codes"} & set(found)
