"""Finding the systems: every module in a folder of this package that defines one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from functools import lru_cache

import cbir_lite.methods as package
from cbir_lite.methods.base import Method
from cbir_lite.methods.card import Card, CardError, read


@lru_cache
def _modules() -> dict[str, str]:
    """The module of every system by id (its last name), in order of id; none is imported."""
    found: dict[str, str] = {}
    for folder in pkgutil.iter_modules(package.__path__):
        if not folder.ispkg:
            continue
        sub = importlib.import_module(f"{package.__name__}.{folder.name}")
        for info in pkgutil.iter_modules(sub.__path__):
            if info.name.startswith("_"):
                continue
            name = f"{sub.__name__}.{info.name}"
            if info.name in found:
                raise CardError(f"{name}: the id {info.name!r} is taken by {found[info.name]}")
            found[info.name] = name
    return dict(sorted(found.items()))


def _system(name: str) -> type[Method]:
    module = importlib.import_module(name)
    systems = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == name and not inspect.isabstract(c)
    ]
    if len(systems) != 1:
        raise CardError(f"{name}: expected one system, found {len(systems)}")
    return systems[0]


@lru_cache
def classes() -> dict[str, type[Method]]:
    """Every system by id (the name of its module), in order of id.

    Raises :class:`~cbir_lite.methods.card.CardError` for a module without exactly one system or
    with a defective card.
    """
    return {id_: _system(name) for id_, name in _modules().items()}


@lru_cache
def cards() -> dict[str, Card]:
    """The card of every system by id."""
    return {id_: read(cls) for id_, cls in classes().items()}


def get(name: str) -> type[Method]:
    """The class of ``id`` or ``id/variant``; raises ``KeyError`` with the closest ids, if any."""
    id_ = name.split("/")[0]
    known = _modules()
    if id_ not in known:
        near = ", ".join(difflib.get_close_matches(id_, known, n=3))
        hint = f"closest: {near} (see `cbir methods`)" if near else "`cbir methods` lists them"
        raise KeyError(f"no system {id_!r}; {hint}")
    # Only this one: to import all of them takes seconds.
    return _system(known[id_])


def create(name: str, **params: object) -> Method:
    """An unfitted system from ``id`` or ``id/variant`` and its hyper-parameters.

    >>> create("dpsh", bits=16).bits
    16
    """
    cls = get(name)
    variant = name.partition("/")[2]
    if variant:
        if variant not in cls.variants:
            has = ", ".join(sorted(cls.variants)) or "none"
            raise KeyError(f"{cls.__name__} has no variant {variant!r}; it has {has}")
        params = {**cls.variants[variant], **params}
    known_params = cls.parameters()
    for key in params:
        if key not in known_params:
            raise TypeError(
                f"{name} has no hyper-parameter {key!r}; it has {', '.join(known_params)}"
            )
    return cls(**params)  # type: ignore[arg-type]


def names() -> list[str]:
    """Every ``id`` and ``id/variant``."""
    return [n for id_, c in classes().items() for n in (id_, *(f"{id_}/{v}" for v in c.variants))]
