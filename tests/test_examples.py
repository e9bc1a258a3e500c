"""Examples in docstrings and README run, and docstrings name parameters that exist."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cbir_lite

ROOT = Path(cbir_lite.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PROMPT = ">>> "
WITH_EXAMPLES = {
    ".".join(["cbir_lite", *p.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): p
    for p in sorted(ROOT.rglob("*.py"))
    if PROMPT in p.read_text(encoding="utf-8")
}
NOT_RUN = {
    "cbir_lite.bench.pairs": "draws the emoji and extracts them",
    "cbir_lite.datasets.emoji": "fetches the emoji",
    "cbir_lite.features.extract": "extracts 1797 images",
    "cbir_lite.features.handcrafted": "its images are the reader's",
    "cbir_lite.plots.heatmap": "returns axes",
}
"""Modules with an example marked ``+SKIP``, and why."""


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples_run(name: str) -> None:
    tests = doctest.DocTestFinder().find(importlib.import_module(name), name)
    examples = [example for test in tests for example in test.examples]
    text = WITH_EXAMPLES[name].read_text(encoding="utf-8")
    assert len(examples) == text.count(PROMPT), "an example stands where doctest is blind"
    skipped = sum(bool(example.options.get(doctest.SKIP)) for example in examples)
    assert (skipped > 0) == (name in NOT_RUN)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_reasons_are_given_for_modules_that_have_examples() -> None:
    assert set(NOT_RUN) <= WITH_EXAMPLES.keys()
    assert len(WITH_EXAMPLES) - len(NOT_RUN) >= 10


def blocks() -> list[str]:
    text = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def check_imports(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize("code", blocks(), ids=lambda code: code.splitlines()[-1][:40])
def test_readme_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_imports(code)
    compiled = compile(code, "README.md", "exec")
    if "cifar10" in code:  # minutes, and its images
        return
    exec(compiled, {"__name__": "readme"})
    # What it prints is a mAP well above chance.
    printed = [float(word) for word in capsys.readouterr().out.split()]
    assert printed
    assert all(0.3 < value < 1 for value in printed)


def test_readme_has_an_example() -> None:
    assert blocks()


# Args: and Attributes: ----------------------------------------------------------------------------


@cache
def modules() -> list[ModuleType]:
    names = [m.name for m in pkgutil.walk_packages(cbir_lite.__path__, "cbir_lite.")]
    return [importlib.import_module(name) for name in names]


def documented() -> Iterator[tuple[str, Any]]:
    """Functions, classes and methods of the package, each once, by their dotted name."""
    for module in modules():
        for name, member in vars(module).items():
            if getattr(member, "__module__", None) != module.__name__ or not callable(member):
                continue
            yield f"{module.__name__}.{name}", member
            if inspect.isclass(member):
                for own, inner in vars(member).items():
                    function = getattr(inner, "__func__", getattr(inner, "func", inner))
                    if callable(function):
                        yield f"{module.__name__}.{name}.{own}", function


def named_under(heading: str, text: str) -> list[str]:
    """Names at the first level under a heading of a docstring, as ``name:`` or ``one, two:``."""
    lines = inspect.cleandoc(text).splitlines()
    if heading not in lines:
        return []
    found = []
    for line in lines[lines.index(heading) + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\S[^:]*):( |$)", line)
        if entry:
            found += [name.strip("*` ") for name in entry[1].split(",")]
    return found


def parameters(member: Any) -> set[str]:
    names = set(inspect.signature(member).parameters)
    if dataclasses.is_dataclass(member):
        names |= {field.name for field in dataclasses.fields(member)}
    return names


def test_args_and_attributes_are_those_of_the_code() -> None:
    seen, wrong = 0, []
    for name, member in documented():
        text = member.__doc__ or ""
        arguments, attributes = (named_under(h, text) for h in ("Args:", "Attributes:"))
        if arguments:
            seen += 1
            wrong += [f"{name}: {a}" for a in arguments if a not in parameters(member)]
        if attributes:
            seen += 1
            known = parameters(member) | set(dir(member))
            wrong += [f"{name}: {a}" for a in attributes if a not in known]
    assert wrong == []
    sources = (path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py"))
    headings = sum(len(re.findall(r"^ +(?:Args|Attributes):$", s, re.MULTILINE)) for s in sources)
    assert seen == headings, "a heading stands where this test is blind"
