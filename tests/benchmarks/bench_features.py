"""Time feature extraction by PyTorch and by OpenVINO in both precisions, in one run.

Run ``python tests/benchmarks/bench_features.py --json out.json`` on an idle machine. With ``--map``
it also asks whether bfloat16 features change a result: systems are trained and measured on a part
of a CIFAR-10 protocol in both precisions, and the difference of the mean mAP, with its standard
error, is printed beside the standard deviation of the mAP over seeds. Three seeds are too few for
that comparison: the standard deviation itself is then uncertain by half.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from cbir_lite import datasets
from cbir_lite.bench import Setting
from cbir_lite.features.backbones import BackboneSpec
from cbir_lite.features.runtimes import open_runtime, processor_has_bf16
from cbir_lite.methods import registry

NETWORK, BATCH = "efficientnet_lite0", 32
SYSTEMS = ("dsh_liu2016", "itq")


def speeds(images: np.ndarray, size: int, repeat: int) -> list[dict[str, Any]]:
    """Images a second of each runtime, the best of several passes over all images after a warm-up.

    The passes take turns, so a machine that is busy for a while slows every runtime.
    """
    plain = BackboneSpec.parse(f"{NETWORK}-{size}")
    ways = [("torch", plain), ("openvino", plain)]
    if processor_has_bf16():
        ways.append(("openvino", BackboneSpec.parse(f"{NETWORK}-{size}-bf16")))
    batches = [images[a : a + BATCH] for a in range(0, len(images), BATCH)]
    rows: list[dict[str, Any]] = []
    runs = []
    for runtime, spec in ways:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing
            run = open_runtime(spec, runtime, None, batches[0].shape)
        runs.append(run)
        first = np.concatenate([run(b)[0] for b in batches])
        if not rows:
            reference = first
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(reference, axis=1)
        cosine = (first * reference).sum(1) / norms
        rows.append(
            {
                "runtime": runtime,
                "precision": spec.precision,
                "seconds": float("inf"),
                "cosine_mean": float(cosine.mean()),
                "cosine_min": float(cosine.min()),
            }
        )
    for _ in range(repeat):
        for row, run in zip(rows, runs, strict=True):
            start = time.perf_counter()
            for batch in batches:
                run(batch)
            row["seconds"] = min(row["seconds"], time.perf_counter() - start)
    for row in rows:
        row["images_per_second"] = len(images) / row["seconds"]
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    return rows


def both_precisions(
    protocol: str, size: int, bits: int, seeds: int, parts: tuple[int, int, int]
) -> list[dict[str, Any]]:
    """mAP@all of systems on features of both precisions; the same images, seeds and settings."""
    settings = {}
    for precision, suffix in (("f32", ""), ("bf16", "-bf16")):
        whole = Setting(protocol, f"{NETWORK}-{size}{suffix}", progress=True)
        settings[precision] = whole.subset(*parts, inherit=False)
    rows = []
    for name in SYSTEMS:
        found: dict[str, list[float]] = {precision: [] for precision in settings}
        for precision, setting in settings.items():
            for seed in range(seeds):
                system = registry.create(name, bits=bits, seed=seed)
                system.fit(setting.split(system))
                found[precision].append(setting.evaluate(system).mean_ap())
        gain = np.subtract(found["bf16"], found["f32"])
        rows.append(
            {
                "system": name,
                **{f"map_{precision}": values for precision, values in found.items()},
                "difference": float(gain.mean()),
                "error": float(gain.std(ddof=1) / np.sqrt(seeds)),
                "spread": float(np.std(found["f32"], ddof=1)),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, print its tables, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="cifar10", help="whose first images are timed")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    parser.add_argument("--map", action="store_true", help="compare mAP in both precisions too")
    parser.add_argument("--protocol", default="cifar10-59k")
    parser.add_argument("--parts", type=int, nargs=3, default=(500, 2000, 5000),
                        metavar=("QUERY", "TRAIN", "DATABASE"))  # fmt: skip
    parser.add_argument("--map-size", type=int, default=96, help="pixels")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args(arguments)
    if options.map and not processor_has_bf16():
        parser.error("--map compares with bfloat16, which this processor does not have")
    torch.set_num_threads(options.threads)
    images = datasets.load(options.dataset).images
    assert isinstance(images, np.ndarray)
    record: dict[str, Any] = {
        "images": min(options.images, len(images)),
        "size": options.size,
        "threads": options.threads,
        "load_before": os.getloadavg()[0],
        "processor": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "openvino": openvino.__version__},
        "speeds": speeds(np.array(images[: options.images]), options.size, options.repeat),
    }
    record["load_after"] = os.getloadavg()[0]
    if options.map:
        parts = tuple(options.parts)
        record["map"] = both_precisions(
            options.protocol, options.map_size, options.bits, options.seeds, parts
        )
    _show(record)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return record


def _show(record: dict[str, Any]) -> None:
    print(
        f"{record['images']} images at {record['size']} px, load {record['load_before']:.1f} "
        f"to {record['load_after']:.1f}"
    )
    print(f"{'runtime':20}{'images/s':>10}{'ratio':>8}{'cosine mean':>13}{'min':>9}")
    for row in record["speeds"]:
        print(
            f"{row['runtime'] + ' ' + row['precision']:20}{row['images_per_second']:10.1f}"
            f"{row['ratio']:8.1f}{row['cosine_mean']:13.5f}{row['cosine_min']:9.5f}"
        )
    if "map" in record:
        print(f"\n{'system':20}{'mAP f32':>10}{'mAP bf16':>10}{'difference':>18}{'over seeds':>12}")
        for row in record["map"]:
            print(
                f"{row['system']:20}{np.mean(row['map_f32']):10.4f}{np.mean(row['map_bf16']):10.4f}"
                f"{row['difference']:+9.4f} ± {row['error']:.4f}{row['spread']:12.4f}"
            )


if __name__ == "__main__":
    main()
