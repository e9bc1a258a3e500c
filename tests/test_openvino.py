"""OpenVINO gives the features PyTorch gives; its bfloat16 is close, or refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cbir_lite import datasets
from cbir_lite.features import runtimes
from cbir_lite.features.backbones import BackboneSpec
from cbir_lite.features.runtimes import RuntimeUnavailable, choose, open_runtime, processor_has_bf16

SIZE, BATCH = 96, 32
PLAIN = BackboneSpec.parse(f"efficientnet_lite0-{SIZE}")
SHORT = BackboneSpec.parse(f"efficientnet_lite0-{SIZE}-bf16")


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """32 digits and 32 images of coloured noise, uint8 (64, 8, 8, 3)."""
    digits = np.repeat(datasets.load("digits").images[:32], 3, axis=3)
    noise = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    return np.concatenate([digits, noise])


def features(spec: BackboneSpec, runtime: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        run = open_runtime(spec, runtime, None, (BATCH, *images.shape[1:]))
    return np.concatenate([run(images[a : a + BATCH])[0] for a in range(0, len(images), BATCH)])


@pytest.fixture(scope="module")
def by_torch(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return features(PLAIN, "torch", images)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_32_bit_features_are_those_of_torch(images: NDArray[np.uint8], by_torch) -> None:
    by_openvino = features(PLAIN, "openvino", images)
    assert by_openvino.shape == by_torch.shape == (64, 1280)
    assert cosine(by_openvino, by_torch).min() >= 0.9999
    # The rows differ, so a cosine near 1 says something.
    assert cosine(by_torch[:32], by_torch[32:]).max() < 0.99


def test_bfloat16_is_close_where_the_processor_has_it_and_refused_where_not(
    images: NDArray[np.uint8], by_torch
) -> None:
    if not processor_has_bf16():
        with pytest.raises(RuntimeUnavailable, match=r"no bfloat16 instructions; use .*-96$"):
            choose(SHORT)
        return
    assert choose(SHORT) == "openvino"
    short = features(SHORT, "openvino", images)
    close = cosine(short, by_torch)
    assert close.mean() > 0.99
    # It is another precision, not the same numbers under another name.
    assert np.abs(short - by_torch).max() > 1e-4


def test_a_processor_without_bfloat16_is_told_what_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2 avx2 avx512f")
    assert not processor_has_bf16(tmp_path / "cpuinfo")
    assert not processor_has_bf16(tmp_path / "absent")
    monkeypatch.setattr(runtimes, "processor_has_bf16", lambda: False)
    with pytest.raises(RuntimeUnavailable, match=r"no bfloat16 instructions; use .*lite0-96$"):
        choose(SHORT)
    assert choose(PLAIN) == "openvino"


def test_without_openvino_torch_is_used_and_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda _: None)
    assert choose(PLAIN) == "torch"
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'cbir-lite\[openvino\]'"):
        choose(PLAIN, "openvino")
    with pytest.raises(RuntimeUnavailable, match=r"bfloat16.*'cbir-lite\[openvino\]'.*lite0-96$"):
        choose(SHORT)


SENDS = """
import os, warnings
from openvino_telemetry.backend.backend_ga4 import GA4Backend
sent = []
GA4Backend.send = lambda self, message: sent.append(message)
from cbir_lite.features import runtimes
if {allowed}:
    import contextlib
    runtimes._no_telemetry = contextlib.nullcontext
warnings.simplefilter("ignore")
runtimes.open_runtime(
    runtimes.BackboneSpec.parse("efficientnet_lite0-32"), "openvino", None, (1, 8, 8, 3)
)
from openvino_telemetry import Telemetry
Telemetry().force_shutdown(5)
print(len(sent), os.environ.get("CI"))
"""


@pytest.mark.parametrize("allowed", [False, True])
def test_nothing_is_sent_from_the_machine_of_a_reader(tmp_path: Path, allowed: bool) -> None:
    """The second case shows that the first could fail: OpenVINO does send where it may."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")
    }
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SENDS.format(allowed=allowed)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sent, ci = done.stdout.split()[-2:]
    assert (int(sent) > 0) == allowed
    assert ci == "None"
