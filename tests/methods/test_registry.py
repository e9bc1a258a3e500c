"""The registry: systems are found by their files alone, made by name, and errors help."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

import cbir_lite.methods.cnn as folder
from cbir_lite.features.store import FIXED
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method
from cbir_lite.methods.card import CardError

SYSTEM = '''
from dataclasses import dataclass

from cbir_lite.methods.base import Method, sign


@dataclass(kw_only=True, eq=False)
class Demo(Method):
    """Signs of the first dimensions.

    :survey: none
    :name: Demo
    :year: 2001
    :supervision: unsupervised
    :network: none
    :descriptor: binary
    :cite: none
    :source: none needed
    :objective: b = sgn(x)
    :shapes: x (n, d)
    :defaults: none
    :departures: none
    :fidelity: faithful
    """

    supervision = "unsupervised"
    variants = {"wide": {"bits": 64}}

    def fit(self, split, **loop):
        self.d_ = split.x.shape[1]
        return self

    def encode(self, x):
        return sign(x[:, : self.bits])
'''


@pytest.fixture
def add_system(tmp_path, monkeypatch):
    """Put one more file into a folder of systems; everything is forgotten afterwards."""

    def clear():
        registry._modules.cache_clear()
        registry.classes.cache_clear()
        registry.cards.cache_clear()
        for name in [m for m in sys.modules if m.startswith(f"{folder.__name__}.zz_")]:
            del sys.modules[name]
            vars(folder).pop(name.rsplit(".", 1)[1], None)

    def add(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        clear()

    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    yield add
    monkeypatch.undo()
    clear()


def test_adding_a_file_adds_a_system(add_system, digits, lab):
    before = registry.names()
    add_system("zz_demo", SYSTEM)
    assert set(registry.names()) - set(before) == {"zz_demo", "zz_demo/wide"}
    assert registry.cards()["zz_demo"].tier == "baseline"
    assert registry.create("zz_demo/wide").bits == 64
    assert registry.create("zz_demo/wide", bits=8).bits == 8
    method = registry.create("zz_demo", bits=8)
    assert method.fit(lab.make_split(method)).encode(digits.query.pooled).shape == (150, 8)


def test_files_that_start_with_an_underscore_are_helpers(add_system):
    before = registry.names()
    add_system("_zz_helper", SYSTEM)
    assert registry.names() == before


def test_a_file_needs_exactly_one_system(add_system):
    add_system("zz_empty", "x = 1\n")
    with pytest.raises(CardError, match=r"zz_empty: expected one system, found 0"):
        registry.classes()


def test_two_systems_in_one_file_are_refused(add_system):
    add_system("zz_two", SYSTEM + "\n\n@dataclass(kw_only=True, eq=False)\nclass More(Demo): ...\n")
    with pytest.raises(CardError, match=r"zz_two: expected one system, found 2"):
        registry.classes()


def test_an_id_that_is_taken_is_refused(add_system):
    add_system("itq", SYSTEM)
    with pytest.raises(CardError, match=r"the id 'itq' is taken by cbir_lite\.methods\."):
        registry.classes()


def test_one_system_is_found_without_importing_the_others():
    code = """
        import sys
        from cbir_lite.methods import registry
        registry.get("itq"), registry.create("pca_sign", bits=8)
        folder = "cbir_lite.methods."
        print(*(m for m in sys.modules if m.startswith(folder) and m.count(".") == 3))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    ids = {m.rsplit(".", 1)[1] for m in done.stdout.split()}
    assert {"itq", "pca_sign"} <= ids
    assert not {"dpsh", "dvb", "bgan"} & ids


def test_a_defective_card_is_named_when_cards_are_read(add_system):
    add_system("zz_mute", SYSTEM.replace(":objective: b = sgn(x)\n", ""))
    assert "zz_mute" in registry.classes()
    with pytest.raises(CardError, match=r"zz_mute\.Demo: the card lacks :objective:"):
        registry.cards()


def test_names_are_unique_and_those_of_modules():
    names = registry.names()
    assert len(names) == len(set(names))
    assert list(registry.classes()) == sorted(registry.classes())
    for id_, cls in registry.classes().items():
        assert issubclass(cls, Method)
        assert cls.__module__.rsplit(".", 1)[1] == id_
        assert registry.get(id_) is cls


def test_unknown_names_are_answered_with_the_closest():
    with pytest.raises(KeyError, match=r"no system 'dpsj'; closest: dpsh"):
        registry.get("dpsj")
    with pytest.raises(
        KeyError, match=r"no system 'qqqqqqqq'; `cbir methods` lists them"
    ) as caught:
        registry.create("qqqqqqqq")
    assert "itq" not in str(caught.value)
    with pytest.raises(KeyError, match="has no variant 'nothing'; it has none"):
        registry.create("dpsh/nothing")


def test_unknown_parameters_are_answered_with_the_known():
    with pytest.raises(TypeError, match=r"no hyper-parameter 'learning_rate'; it has .*lr"):
        registry.create("dpsh", learning_rate=1.0)


def test_variants_change_declared_parameters_only():
    for id_, cls in registry.classes().items():
        for variant, params in cls.variants.items():
            assert set(params) <= set(cls.parameters())
            made = registry.create(f"{id_}/{variant}")
            changed = {k for k, v in made.params.items() if v != registry.create(id_).params[k]}
            assert changed
            assert changed <= set(params)


def test_every_system_has_the_common_parameters_and_known_declarations():
    for cls in registry.classes().values():
        assert {"bits", "seed"} <= set(cls.parameters())
        assert re.fullmatch(r"(pooled|stages)(\+\w+)*|maps|images", cls.reads)
        assert set(cls.reads.split("+")[1:]) <= set(FIXED)
        assert cls.descriptor in {"binary", "quantization", "real"}


def test_importing_the_package_imports_no_torch():
    code = "import sys, cbir_lite.methods; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
