"""The hash of a system's code: words do not count, its own code and that of its helpers do."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from cbir_lite.bench.run import _read_module, _written, code_hash
from cbir_lite.methods import registry


def hash_with(
    monkeypatch: pytest.MonkeyPatch, method: str, module: str, before: str, after: str
) -> str:
    """The hash as if a module of the systems' package read otherwise."""
    exact = inspect.getsource

    def altered(m: ModuleType) -> str:
        source = exact(m)
        if m.__name__ != f"cbir_lite.methods.{module}":
            return source
        assert before in source
        return source.replace(before, after)

    with monkeypatch.context() as patch:
        patch.setattr(inspect, "getsource", altered)
        _read_module.cache_clear()
        try:
            return code_hash.__wrapped__(method)
        finally:
            _read_module.cache_clear()


@pytest.mark.parametrize(
    ("method", "module", "before", "after", "same"),
    [
        ("dpsh", "cnn.dpsh", "Stored outputs", "Kept outputs", True),
        ("dpsh", "cnn.dpsh", "0.5 * u", "0.6 * u", False),
        ("dh_liong", "shallow._liong", '"L-BFGS-B"', '"CG"', False),
        ("itq", "shallow._liong", '"L-BFGS-B"', '"CG"', True),
        ("dpsh", "deep", "fused=True", "fused=False", True),  # under every system: in no hash
    ],
)
def test_the_hash_is_that_of_the_system_and_its_helpers(
    monkeypatch: pytest.MonkeyPatch, method: str, module: str, before: str, after: str, same: bool
) -> None:
    registry.get(method)
    first = code_hash.__wrapped__(method)
    assert (hash_with(monkeypatch, method, module, before, after) == first) is same


def test_a_tree_is_written_alike_by_all_versions_of_python() -> None:
    """Newer versions give a function type parameters, and do not show what is empty."""
    tree = ast.parse("def f(x, *, y=None):\n    return x[0] if y else ()\n")
    first = _written(tree)
    assert first == (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')], "
        "kwonlyargs=[arg(arg='y')], kw_defaults=[Constant()]), body=[Return(value=IfExp("
        "test=Name(id='y', ctx=Load()), body=Subscript(value=Name(id='x', ctx=Load()), "
        "slice=Constant(value=0), ctx=Load()), orelse=Tuple(ctx=Load())))])])"
    )
    assert _written(ast.parse("def f(x, *, y=None):\n    return x[1] if y else ()\n")) != first
