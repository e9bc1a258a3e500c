"""Cross-modal benches: who is query, what is relevant, and which half a system reads."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.bench import pairs
from cbir_lite.datasets import Emoji, ImageSet
from cbir_lite.datasets.emoji_sources import STYLES
from cbir_lite.methods import registry

N = 40


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Emoji:
    random = np.random.default_rng(0)
    groups = np.arange(N) % 4
    words = (random.random((N, 12)) < 0.1).astype(np.uint8)
    words[np.arange(N), groups] = 1
    images = np.zeros((6 * N, 4, 4, 3), np.uint8)
    made = Emoji(
        tuple(chr(0x1F400 + i) for i in range(N)),
        tuple(f"thing {i}" for i in range(N)),
        groups,
        ("a", "b", "c", "d"),
        words,
        tuple("abcdefghijkl"),
        images,
    )
    monkeypatch.setattr(pairs, "load_emoji", lambda: made)

    def load(images: ImageSet, *_: object, **__: object) -> np.ndarray:
        concept = np.tile(np.arange(N), 6)
        style = np.repeat(np.arange(6), N)
        x = np.zeros((6 * N, 10), np.float32)
        x[:, :4] = np.eye(4)[groups[concept]] * 3
        x[:, 4], x[:, 5] = concept, style
        return x

    monkeypatch.setattr("cbir_lite.bench.setting.features.load", load)
    return made


def test_texts_and_pictures_take_their_sides(source: Emoji) -> None:
    setting = pairs.open_setting("emoji-text-to-image", "any")
    assert isinstance(setting, pairs.PairSetting)
    assert setting.modality == "text"
    assert (setting.frozen.query >= 6 * N).all()
    assert (setting.frozen.database < 4 * N).all()
    back = pairs.open_setting("emoji-image-to-text", "any")
    assert (back.frozen.database >= 6 * N).all()
    np.testing.assert_array_equal(setting.frozen.train, back.frozen.train)
    method = registry.create("prdh", bits=8, epochs=3)
    split = setting.split(method)
    np.testing.assert_array_equal(split.other, source.words[split.indices % N])
    assert split.labels.argmax(1).tolist() == source.groups[split.indices % N].tolist()


def test_line_art_is_paired_with_colour_of_the_same_concept(source: Emoji) -> None:
    setting = pairs.open_setting("emoji-sketch-zero-shot-concept", "any")
    assert setting.frozen.name == "emoji-sketch-zero-shot-concept"
    assert setting.labels.shape == (7 * N, N)

    class Sketch(registry.get("prdh")):  # type: ignore[misc]
        modality = "sketch"

    split = setting.split(Sketch(bits=8))
    assert split.x[:, 4].tolist() == split.other[:, 4].tolist()
    assert set(split.other[:, 5]) == {4}
    assert set(split.x[:, 5]) == {0, 1, 2, 3}
    queries, train = setting.frozen.query % N, setting.frozen.train % N
    assert not set(queries) & set(train)
    rows = setting.other_rows(setting.frozen.query)
    assert set(rows[:, 5]) == {4, 5}
    with pytest.raises(ValueError, match="pairs pictures with sketch"):
        setting.split(registry.create("prdh"))


def test_a_cross_modal_system_is_measured_end_to_end(source: Emoji) -> None:
    for task in ("text-to-image", "image-to-text"):
        setting = pairs.open_setting(f"emoji-{task}", "any")
        method = registry.create("prdh", bits=16, epochs=40, batch_size=32)
        evaluation = setting.evaluate(method.fit(setting.split(method)))
        assert evaluation.mean_ap(None) > 0.6  # four groups: chance is 0.25


def test_every_task_is_frozen_and_unknown_ones_are_refused(source: Emoji) -> None:
    for task in pairs.TASKS:
        protocol = pairs.frozen_protocol(f"emoji-{task}")
        assert not set(protocol.query) & set(protocol.database)
        assert protocol.hash == pairs.pair_protocol(source, task).hash
    assert pairs.frozen_protocol("emoji-instance").name == "emoji-instance"
    assert pairs.open_setting("emoji-category", "any").labels.shape[1] == 4
    assert pairs.open_setting("emoji-instance", "any").labels.shape[1] == N
    with pytest.raises(ValueError, match="unknown task"):
        pairs.frozen_protocol("emoji-smell")
    with pytest.raises(ValueError, match="unknown cross-modal task 'smell'"):
        pairs.pair_protocol(source, "smell")
    assert len(STYLES) == 6


def test_every_system_is_at_home_in_a_split_that_serves_it():
    from cbir_lite.bench import home_protocol
    from cbir_lite.bench.pairs import TASKS
    from cbir_lite.methods import registry

    homes = {name: home_protocol(registry.get(name)) for name in registry.names()}
    assert homes["dpsh"] == "cifar10-59k"
    assert homes["rmac"] == homes["patch_ckn"] == "emoji-instance"
    assert homes["multilayer_fusion_190"] == homes["dfe_handcrafted_kan"] == "emoji-instance"
    assert homes["hrnh"] == "cifar10-59k"
    for name, home in homes.items():
        assert (home == "emoji-tags") is (registry.get(name).supervision == "weakly-supervised")
        paired = home.removeprefix("emoji-") in TASKS
        assert paired is (registry.get(name).modality is not None), name
        if registry.get(name).modality == "sketch":
            assert home == "emoji-sketch-to-image"


def test_tags_teach_and_groups_judge(source: Emoji) -> None:
    setting = pairs.open_setting("emoji-tags", "any")
    method = registry.create("wdht", bits=8, epochs=1)
    assert pairs.home_protocol(type(method)) == "emoji-tags"
    split = setting.split(method)
    np.testing.assert_array_equal(split.labels, source.words[split.indices % N])
    np.testing.assert_array_equal(
        setting.labels.argmax(1)[setting.frozen.query], source.groups[setting.frozen.query % N]
    )
    judged = setting.evaluate(method.fit(split), cutoffs=(None,)).ap[None, "all"]
    assert judged.shape == setting.frozen.query.shape
