"""What executes a backbone: PyTorch, or OpenVINO where it is installed.

A runtime is a function from a uint8 batch ``(n, height, width, channels)`` to float32 arrays
``(pooled (n, d), beside)``, where ``beside`` is the maps (n, h, w, d), the stages (n, sum d), or
None: what the runtime was opened for.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cbir_lite.features.backbones import BackboneSpec, build

Batch = NDArray[np.uint8]
Features = tuple[NDArray[np.float32], NDArray[np.float32] | None]
Runtime = Callable[[Batch], Features]


class RuntimeUnavailable(RuntimeError):
    """The runtime or the precision is not available on this machine; the message says what is."""


def choose(spec: BackboneSpec, runtime: str = "auto") -> str:
    """``torch`` or ``openvino``: the fastest that can honour the precision of ``spec``.

    Raises :class:`RuntimeUnavailable` when bfloat16 is asked of a machine without it.
    """
    if runtime not in ("auto", "torch", "openvino"):
        raise ValueError(f"runtime {runtime!r}: use auto, torch or openvino")
    installed = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not installed:
        raise RuntimeUnavailable("OpenVINO is not installed: pip install 'cbir-lite[openvino]'")
    if spec.precision == "bf16":
        if runtime == "torch" or not installed:
            raise RuntimeUnavailable(
                f"{spec.name} runs in bfloat16, which needs OpenVINO: "
                f"pip install 'cbir-lite[openvino]', or use {spec.name.removesuffix('-bf16')}"
            )
        if not processor_has_bf16():
            raise RuntimeUnavailable(
                f"{spec.name}: this processor has no bfloat16 instructions; "
                f"use {spec.name.removesuffix('-bf16')}"
            )
    return "openvino" if installed and runtime != "torch" else "torch"


def processor_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies in bfloat16 (AVX512-BF16 or AMX, read from Linux)."""
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def torch_runtime(spec: BackboneSpec, beside: str | None) -> Runtime:
    """The backbone in PyTorch: 32-bit floats, channels-last, no gradients."""
    network = build(spec, beside == "stages")

    def run(batch: Batch) -> Features:
        with torch.inference_mode():
            pooled, second = network(torch.from_numpy(np.require(batch, requirements=["C", "W"])))
        return pooled.numpy(), second.numpy() if beside else None

    return run


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """OpenVINO sends usage data on import and conversion, from forked processes, but in CI jobs."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def openvino_runtime(spec: BackboneSpec, beside: str | None, shape: tuple[int, ...]) -> Runtime:
    """The same network compiled by OpenVINO for batches of ``shape`` (n, height, width, channels).

    A shorter last batch is padded and cut.
    """
    network = build(spec, beside == "stages")
    example = torch.zeros(shape, dtype=torch.uint8)
    with _no_telemetry():
        import openvino as ov

        model = ov.convert_model(network, example_input=example, input=[tuple(shape)])
    compiled = ov.Core().compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": spec.precision, "PERFORMANCE_HINT": "LATENCY"},
    )
    request = compiled.create_infer_request()

    def run(batch: Batch) -> Features:
        n = len(batch)
        if n < shape[0]:
            batch = np.concatenate([batch, np.repeat(batch[-1:], shape[0] - n, axis=0)])
        out = request.infer({0: np.ascontiguousarray(batch)}, share_inputs=True)
        return np.array(out[0][:n]), np.array(out[1][:n]) if beside else None

    return run


def open_runtime(
    spec: BackboneSpec, runtime: str, beside: str | None, shape: tuple[int, ...]
) -> Runtime:
    """The chosen runtime (see :func:`choose`), ready for batches of ``shape``.

    ``beside`` is what it gives beside pooled features: ``maps``, ``stages`` or None.
    """
    if runtime == "openvino":
        return openvino_runtime(spec, beside, shape)
    return torch_runtime(spec, beside)
