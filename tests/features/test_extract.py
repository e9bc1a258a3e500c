"""Extraction: cached, resumable, the same by every runtime, and clear when something is wrong."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from cbir_lite.datasets import ImageSet
from cbir_lite.features import describe_name, load, provenance_hash, widths
from cbir_lite.features import extract as module
from cbir_lite.features.backbones import (
    NETWORKS,
    Backbone,
    BackboneSpec,
    UnknownBackbone,
    WeightsUnavailable,
    build,
)
from cbir_lite.features.extract import Provenance, extract
from cbir_lite.features.runtimes import (
    RuntimeUnavailable,
    choose,
    openvino_runtime,
    processor_has_bf16,
    torch_runtime,
)

BACKBONE = "efficientnet_lite0-32"


def image_set(n: int = 40, seed: int = 0, channels: int = 3) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 8, 8, channels), dtype=np.uint8)
    labels = np.eye(2, dtype=np.uint8)[rng.integers(0, 2, n)]
    return ImageSet(f"noise{seed}", images, labels, ("a", "b"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))


def test_names_say_network_size_and_precision() -> None:
    spec = BackboneSpec.parse("efficientnet_lite0-224-bf16")
    assert (spec.network, spec.size, spec.precision) == ("efficientnet_lite0", 224, "bf16")
    assert spec.name == "efficientnet_lite0-224-bf16"
    assert "224 x 224" in describe_name("efficientnet_lite0-224")
    assert provenance_hash("hog") == "none"
    assert len(provenance_hash(BACKBONE)) == 16


@pytest.mark.parametrize("name", ["nothing-224", "efficientnet_lite0", "efficientnet_lite0-7"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownBackbone, match=name):
        BackboneSpec.parse(name)


def test_missing_weights_say_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"resnet18-.*pth"):
        build(BackboneSpec.parse("resnet18-224"))


def test_torchvision_backbone_reads_the_weights_a_reader_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    model = torchvision.models.resnet18()
    torch.save(model.state_dict(), folder / url.rsplit("/", 1)[-1])
    pooled, maps = torch_runtime(BackboneSpec.parse("resnet18-64"), "maps")(image_set(2).images)
    assert pooled.shape == (2, 512)
    assert maps is not None
    assert maps.shape == (2, 2, 2, 512)


def test_pooled_is_the_mean_of_the_maps_and_is_cached() -> None:
    images = image_set()
    maps = extract(images, BACKBONE, "maps", progress=False)
    pooled = extract(images, BACKBONE, progress=False)
    assert pooled.shape == (40, 1280)
    assert pooled.dtype == np.float32
    assert maps.dtype == np.float16
    np.testing.assert_allclose(maps.astype(np.float32).mean((1, 2)), pooled, atol=5e-3)
    assert isinstance(pooled, np.memmap)
    assert not pooled.flags.writeable


def test_runtimes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set(6)
    spec = BackboneSpec.parse(BACKBONE)
    a, _ = torch_runtime(spec, None)(images.images)
    b, _ = openvino_runtime(spec, None, (4, 8, 8, 3))(images.images[:4])
    c, _ = openvino_runtime(spec, None, (4, 8, 8, 3))(images.images[4:])
    both = np.concatenate([b, c])
    cosine = (a * both).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(both, axis=1)
    assert cosine.min() > 0.9999


def test_grey_images_are_repeated_to_three_channels() -> None:
    grey = image_set(3, channels=1)
    colour = np.repeat(grey.images, 3, axis=3)
    run = torch_runtime(BackboneSpec.parse(BACKBONE), None)
    np.testing.assert_allclose(run(grey.images)[0], run(colour)[0], atol=1e-5)


def test_a_killed_extraction_goes_on_at_the_last_finished_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = image_set(2100)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _counting(calls, None))
    calls: list[int] = []
    whole = np.array(extract(images, BACKBONE, progress=False))
    path = Provenance(images.images_hash, provenance_hash(BACKBONE), BACKBONE, "openvino").path(
        "pooled"
    )
    path.unlink()

    calls.clear()
    monkeypatch.setattr(module, "open_runtime", lambda *_: _counting(calls, 40))
    with pytest.raises(KeyboardInterrupt):
        extract(images, BACKBONE, progress=False)
    assert not path.exists()
    first = sum(calls)
    calls.clear()
    monkeypatch.setattr(module, "open_runtime", lambda *_: _counting(calls, None))
    np.testing.assert_array_equal(extract(images, BACKBONE, progress=False), whole)
    assert sum(calls) == 2100 - 1024
    assert first > 1024
    assert json.loads(path.with_suffix(".json").read_text())["backbone"] == BACKBONE


def _counting(calls: list[int], stop_after: int | None):
    def run(batch: np.ndarray):
        if stop_after is not None and len(calls) >= stop_after:
            raise KeyboardInterrupt
        calls.append(len(batch))
        return batch.reshape(len(batch), -1).astype(np.float32), None

    return run


def test_features_that_are_not_finite_name_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(batch: np.ndarray):
        out = np.ones((len(batch), 4), np.float32)
        out[2] = np.nan
        return out, None

    monkeypatch.setattr(module, "open_runtime", lambda *_: run)
    with pytest.raises(FloatingPointError, match="image 2 "):
        extract(image_set(5), BACKBONE, progress=False)


def test_other_images_are_another_entry() -> None:
    a = extract(image_set(4, seed=1), BACKBONE, progress=False)
    b = extract(image_set(4, seed=2), BACKBONE, progress=False)
    assert not np.array_equal(a, b)


def _fill(cache: str, queue) -> None:
    import os

    os.environ["CBIR_LITE_CACHE"] = cache
    x = extract(image_set(64), BACKBONE, progress=False)
    queue.put(float(x.sum()))


def test_two_processes_filling_one_cache_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    jobs = [context.Process(target=_fill, args=(str(tmp_path / "c"), queue)) for _ in range(2)]
    for job in jobs:
        job.start()
    sums = [queue.get(timeout=120) for _ in jobs]
    for job in jobs:
        job.join()
    assert sums[0] == sums[1]
    assert len(list((tmp_path / "c" / "features").glob("*.npy"))) == 1


def test_folder_images_of_any_size(tmp_path: Path) -> None:
    from PIL import Image

    paths = []
    for i, size in enumerate([(9, 17), (20, 12)]):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((*size, 3), 40 * i, np.uint8)).save(path)
        paths.append(path)
    images = ImageSet("folder", paths, np.ones((2, 1), np.uint8), ("x",))
    assert load(images, BACKBONE, progress=False).shape == (2, 1280)


def test_precision_needs_a_runtime_that_has_it(tmp_path: Path) -> None:
    spec = BackboneSpec.parse("efficientnet_lite0-224-bf16")
    with pytest.raises(RuntimeUnavailable, match="bfloat16"):
        choose(spec, "torch")
    with pytest.raises(ValueError, match="runtime"):
        choose(spec, "tensorflow")
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2")
    assert not processor_has_bf16(tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags : fpu avx512_bf16")
    assert processor_has_bf16(tmp_path / "cpuinfo")


def test_store_dispatches_by_name() -> None:
    images = image_set(12)
    np.testing.assert_array_equal(load(images, "pixels", "images"), images.images)
    x = load(images, "colour_histogram", progress=False)
    assert len(x) == 12
    np.testing.assert_array_equal(x, load(images, "colour_histogram", progress=False))
    with pytest.raises(ValueError, match="no maps"):
        load(images, "pixels", "maps")
    with pytest.raises(ValueError, match="unknown backbone"):
        describe_name("sift-of-the-future")


LITE_BLOCKS = (0, 2, 4, 7, 10, 14, 15)
"""The last block of each resolution and width of EfficientNet-Lite0."""


def hooked(images: np.ndarray) -> list[np.ndarray]:
    """Means over positions of what the blocks and the trunk give, caught by hooks."""
    network = build(BackboneSpec.parse(BACKBONE))
    lite, caught = network.trunk.network, []
    for block in LITE_BLOCKS:
        lite._blocks[block].register_forward_hook(lambda _m, _i, y: caught.append(y.mean((2, 3))))
    with torch.inference_mode():
        pooled, _ = network(torch.from_numpy(images))
    return [y.numpy() for y in [*caught, pooled]]


def test_stages_are_what_hooks_catch_and_pooled_is_the_last() -> None:
    images = image_set(6)
    expected = hooked(images.images)
    pooled, stages = torch_runtime(BackboneSpec.parse(BACKBONE), "stages")(images.images)
    assert stages is not None
    np.testing.assert_allclose(stages, np.concatenate(expected, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pooled, expected[-1], rtol=1e-4, atol=1e-5)
    parts = widths(images, BACKBONE, "stages")
    assert parts == tuple(e.shape[1] for e in expected) == (16, 24, 40, 80, 112, 192, 320, 1280)
    run = openvino_runtime(BackboneSpec.parse(BACKBONE), "stages", (6, 8, 8, 3))
    _, compiled = run(images.images)
    assert compiled is not None
    for a, b in zip(np.split(compiled, np.cumsum(parts)[:-1], 1), expected, strict=True):
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.9999


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18", "resnet50"])
def test_stages_of_other_networks_have_the_widths_they_say(name: str) -> None:
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
        without_head = torch.nn.Sequential(*list(model.children())[:-2])
        trunk = getattr(model, "features", without_head)
        backbone = Backbone(trunk.eval(), 64, (0.5,) * 3, (0.5,) * 3)
        images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    ends = NETWORKS[name].stages
    for count in range(1, len(ends) + 1):
        backbone.stages = tuple(ends)[:count]
        _, stages = backbone(images)
        assert stages.shape == (2, sum(list(ends.values())[:count]))
    assert max(ends) == len(list(trunk.children())) - 1
    assert NETWORKS[name].channels == list(ends.values())[-1]


def test_asking_for_stages_fills_the_pooled_entry_in_the_same_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = image_set(40)
    stages = extract(images, BACKBONE, "stages", progress=False)
    assert stages.shape == (40, 2064)
    assert stages.dtype == np.float32

    def again(*_: object):
        raise AssertionError("the network ran again")

    monkeypatch.setattr(module, "open_runtime", again)
    pooled = extract(images, BACKBONE, progress=False)
    np.testing.assert_array_equal(pooled, stages[:, -1280:])
    np.testing.assert_array_equal(extract(images, BACKBONE, "stages", progress=False), stages)


def test_stages_after_pooled_leave_the_pooled_entry_alone() -> None:
    images = image_set(5)
    pooled = extract(images, BACKBONE, runtime="torch", progress=False)
    path = Provenance(images.images_hash, provenance_hash(BACKBONE), BACKBONE, "torch")
    before = path.path("pooled").stat().st_mtime_ns
    stages = extract(images, BACKBONE, "stages", runtime="torch", progress=False)
    assert path.path("pooled").stat().st_mtime_ns == before
    np.testing.assert_allclose(stages[:, -1280:], pooled, rtol=1e-4, atol=1e-5)


def test_a_killed_extraction_of_stages_goes_on_with_both_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = image_set(2100)
    calls: list[int] = []

    def open_counting(stop_after: int | None):
        def run(batch: np.ndarray):
            if stop_after is not None and len(calls) >= stop_after:
                raise KeyboardInterrupt
            calls.append(len(batch))
            flat = batch.reshape(len(batch), -1).astype(np.float32)
            return flat[:, -3:], flat

        return lambda *_: run

    monkeypatch.setattr(module, "open_runtime", open_counting(40))
    with pytest.raises(KeyboardInterrupt):
        extract(images, BACKBONE, "stages", progress=False)
    calls.clear()
    monkeypatch.setattr(module, "open_runtime", open_counting(None))
    flat = images.images.reshape(2100, -1).astype(np.float32)
    np.testing.assert_array_equal(extract(images, BACKBONE, "stages", progress=False), flat)
    np.testing.assert_array_equal(extract(images, BACKBONE, progress=False), flat[:, -3:])
    assert sum(calls) == 2100 - 1024


def test_descriptors_stand_beside_pooled_features_or_stages() -> None:
    images = image_set(12)
    pooled, stages = (load(images, BACKBONE, k, progress=False) for k in ("pooled", "stages"))
    hog, colour = (load(images, d, progress=False) for d in ("hog", "colour_histogram"))
    both = load(images, BACKBONE, "pooled+colour_histogram+hog", progress=False)
    np.testing.assert_array_equal(both, np.concatenate([pooled, colour, hog], 1))
    assert widths(images, BACKBONE, "pooled+colour_histogram+hog") == (1280, 512, 324)
    wide = load(images, BACKBONE, "stages+hog", progress=False)
    np.testing.assert_array_equal(wide, np.concatenate([stages, hog], 1))
    assert widths(images, BACKBONE, "stages+hog") == (16, 24, 40, 80, 112, 192, 320, 1280, 324)
    np.testing.assert_array_equal(
        load(images, "lbp", "pooled+hog", progress=False),
        np.concatenate([load(images, "lbp", progress=False), hog], 1),
    )
    assert widths(images, "lbp", "pooled+hog") == (28, 324)
    assert sum(widths(images, "pixels", "stages+lbp") or ()) == 3 * 21 + 192 + 28
    assert widths(images, BACKBONE) is None
    assert widths(images, BACKBONE, "maps") is None


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (BACKBONE, "pooled+bow_patches", "'bow_patches' cannot stand beside"),
        (BACKBONE, "pooled+sift", "'sift' cannot stand beside"),
        (BACKBONE, "maps+hog", "nothing can stand beside maps"),
        (BACKBONE, "layers", "'layers' is none of pooled, maps, stages, images"),
        ("hog", "stages", "hog has no stages"),
    ],
)
def test_kinds_that_cannot_be_had_are_named(name: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(image_set(12), name, kind, progress=False)


def test_extractions_of_two_kinds_killed_in_turn_leave_no_empty_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = image_set(2100)

    def killed(kind: str, after: int) -> None:
        monkeypatch.setattr(module, "open_runtime", lambda *_: _kinds(kind, after))
        with pytest.raises(KeyboardInterrupt):
            extract(images, BACKBONE, kind, batch_size=700, progress=False)  # type: ignore[arg-type]

    killed("pooled", 2)
    killed("maps", 1)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _kinds("pooled", None))
    assert (extract(images, BACKBONE, batch_size=700, progress=False) == 7).all()


def _kinds(kind: str, after: int | None):  # type: ignore[no-untyped-def]
    """A runtime that says 7 to everything and is interrupted after some batches."""
    done = 0

    def run(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        nonlocal done
        if done == after:
            raise KeyboardInterrupt
        done += 1
        maps = np.full((len(batch), 1, 1, 1280), 7, np.float32) if kind == "maps" else None
        return np.full((len(batch), 1280), 7, np.float32), maps

    return run
