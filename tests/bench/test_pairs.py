"""Cross-modal benches: who is query, what is relevant, and which half a system reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_lite.bench import gallery, pairs
from cbir_lite.datasets import Emoji, ImageSet
from cbir_lite.datasets.emoji_sources import STYLES
from cbir_lite.methods import registry
from cbir_lite.retrieval import hamming_distances

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

    def load(images: ImageSet, _: str, kind: str, **__: object) -> np.ndarray:
        concept = np.tile(np.arange(N), 6)
        style = np.repeat(np.arange(6), N)
        x = np.zeros((6 * N, 10), np.float32)
        x[:, :4] = np.eye(4)[groups[concept]] * 3
        x[:, 4], x[:, 5] = concept, style
        return np.tile(x[:, None, None], (2, 3, 1)) if kind == "maps" else x

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


def test_maps_of_line_art_go_to_the_systems_that_ask_for_them(source: Emoji) -> None:
    setting = pairs.open_setting("emoji-sketch-to-image", "any")
    method = registry.create("fg_sbir", bits=16, epochs=3, batch_size=32, lr=1e-2)
    assert registry.get("zs_sbir").other_reads == "pooled"
    split = setting.split(method)
    pooled = setting.split(registry.create("zs_sbir"))
    assert split.x.shape == split.other.shape == (len(split), 2, 3, 10)
    assert pooled.other.shape == (len(split), 10)
    for row, flat, index in zip(split.other, pooled.other, split.indices, strict=True):
        assert flat[4:6].tolist() == [index % N, 4]
        assert (row == flat).all()
    for rows in (setting.frozen.query, setting.frozen.train):
        assert setting.other_rows(rows, "maps").shape == (len(rows), 2, 3, 10)
    evaluation = setting.evaluate(method.fit(split))
    assert evaluation.mean_ap(None) > 0.6  # four groups: chance is 0.25


def test_classes_have_the_words_of_their_training_concepts(source: Emoji) -> None:
    for task in ("sketch-to-image", "sketch-zero-shot", "sketch-zero-shot-concept"):
        setting = pairs.open_setting(f"emoji-{task}", "any")
        split = setting.split(registry.create("zs_sbir"))
        trained = sorted({int(i) % N for i in split.indices})
        unseen = set(range(N)) - set(trained)
        classes = range(N) if task.endswith("concept") else source.groups
        assert len(split.semantics) == split.n_classes == len(set(classes))
        for c, found in enumerate(split.semantics):
            rows = [source.words[i].astype(float) for i in trained if classes[i] == c]
            mean = np.mean(rows, axis=0) if rows else np.zeros(12)
            length = np.sqrt(sum(v**2 for v in mean)) or 1.0
            np.testing.assert_allclose(found, mean / length, rtol=1e-5)
            assert rows or (c in unseen and not found.any())


def test_words_of_concepts_that_were_not_trained_on_change_nothing(source: Emoji) -> None:
    def semantics() -> np.ndarray:
        setting = pairs.open_setting(task, "any")
        return setting.split(registry.create("sem_pcyc")).semantics

    for task in ("emoji-sketch-zero-shot", "emoji-sketch-to-image-concept"):
        frozen = pairs.frozen_protocol(task)
        trained = np.isin(np.arange(N), frozen.train % N)
        assert 0 < trained.sum() < N
        before, words = semantics(), source.words.copy()
        source.words[~trained] = 1 - words[~trained]
        np.testing.assert_array_equal(semantics(), before)
        source.words[trained] = 1 - words[trained]
        assert not np.array_equal(semantics(), before)
        source.words[:] = words


def test_words_of_classes_go_with_labels_and_line_art_only(source: Emoji) -> None:
    class Blind(registry.get("zs_sbir")):  # type: ignore[misc]
        supervision = "unsupervised"

    setting = pairs.open_setting("emoji-sketch-to-image", "any")
    assert setting.split(Blind(bits=8)).semantics is None
    assert setting.split(Blind(bits=8), semantics=setting.class_words).semantics is None
    text = pairs.open_setting("emoji-text-to-image", "any")
    assert text.split(registry.create("prdh")).semantics is None


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


def test_a_bench_of_pairs_or_words_stays_one_with_other_features(source: Emoji) -> None:
    for name in ("emoji-text-to-image", "emoji-tags"):
        setting = pairs.open_setting(name, "any")
        other = setting.with_backbone("other")
        assert type(other) is type(setting)
        np.testing.assert_array_equal(other.labels, setting.labels)
        np.testing.assert_array_equal(other.taught, setting.taught)
        with pytest.raises(ValueError, match=f"{name}.*cannot be subsampled"):
            setting.subset(2, 4, 8)


def test_a_sketch_asks_as_a_sketch(source: Emoji) -> None:
    setting = pairs.open_setting("emoji-sketch-to-image", "any")
    method = registry.create("dsh_sketch", bits=8, epochs=2)
    method.fit(setting.split(method))
    figure, _ = gallery.picture(setting, method, 5, 6)
    queries, database = setting.represent(method)
    nearest = np.sort(hamming_distances(queries[5:6], database)[0])[:6]
    labels = [t.get_text() for t in figure.axes[0].texts if t.get_gid() == "label"]
    assert [text.partition("d=")[2] for text in labels[1:]] == [str(d) for d in nearest]
    texts = pairs.open_setting("emoji-text-to-image", "any")
    with pytest.raises(ValueError, match="emoji-text-to-image has texts, which cannot be drawn"):
        gallery.picture(texts, method, 0)


def test_texts_are_not_drawn_as_results_of_a_file(source: Emoji, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    texts = pairs.open_setting("emoji-image-to-text", "any")
    method = registry.create("prdh", bits=8, epochs=1)
    method.fit(texts.split(method))
    for query in (tmp_path / "cat.png", 0):
        with pytest.raises(ValueError, match="emoji-image-to-text has texts, which cannot be dr"):
            gallery.picture(texts, method, str(query), 3)
