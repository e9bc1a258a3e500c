"""Time the training loop against the same loop with PyTorch's own dropout and plain Adam.

Run ``python tests/benchmarks/bench_training.py --json out.json`` on an idle machine. Every system
is trained both ways in turn, seed by seed; the mean difference of the mAP, with its standard error,
stands beside the spread over seeds: the two draw other numbers and must find equally good codes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cbir_lite.bench import Setting
from cbir_lite.methods import registry
from cbir_lite.methods.deep import DeepMethod
from cbir_lite.methods.networks import Dropout

SYSTEMS = ("greedyhash", "dsh_liu2016")


def with_torchs_own(system: type[DeepMethod]) -> type[DeepMethod]:
    """The system with ``nn.Dropout`` and unfused Adam in the places of this package's."""

    class Plain(system):  # type: ignore[valid-type, misc]
        def build(self, x: Any, n_classes: int | None) -> nn.Module:
            network = super().build(x, n_classes)
            for module in list(network.modules()):
                for name, child in module.named_children():
                    if isinstance(child, Dropout):
                        setattr(module, name, nn.Dropout(child.p))
            return network

        def adam(self, parameters: Any, lr: float | None = None) -> torch.optim.Optimizer:
            groups = super().adam(parameters, lr).param_groups
            return torch.optim.Adam(
                groups[0]["params"], lr=groups[0]["lr"], weight_decay=self.weight_decay
            )

    return Plain


def compare(name: str, setting: Setting, seeds: int, **params: Any) -> dict[str, Any]:
    """Seconds of training, the least over seeds, and mAP of each seed, both ways."""
    ours = registry.get(name)
    assert issubclass(ours, DeepMethod)
    ways = {"own": with_torchs_own(ours), "ours": ours}
    seconds = {way: float("inf") for way in ways}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(seeds):
        for way, cls in ways.items():
            system = cls(seed=seed, **params)
            split = setting.split(system)
            start = time.perf_counter()
            system.fit(split)
            seconds[way] = min(seconds[way], time.perf_counter() - start)
            found[way].append(setting.evaluate(system).mean_ap())
    gain = np.subtract(found["ours"], found["own"])
    return {
        "system": name,
        "seconds": seconds["ours"],
        "seconds_own": seconds["own"],
        "ratio": seconds["own"] / seconds["ours"],
        "map": found["ours"],
        "map_own": found["own"],
        "difference": float(gain.mean()),
        "error": float(gain.std(ddof=1) / np.sqrt(seeds)),
        "spread": float(np.std(found["own"], ddof=1)),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, print its table, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--protocol", default="cifar10-59k")
    parser.add_argument("--backbone", default="efficientnet_lite0-96")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: a spread needs at least 2")
    torch.set_num_threads(options.threads)
    setting = Setting(options.protocol, options.backbone, progress=True)
    record: dict[str, Any] = {
        "threads": options.threads,
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "systems": [
            compare(name, setting, options.seeds, bits=options.bits, epochs=options.epochs)
            for name in options.systems
        ],
        "load_after": os.getloadavg()[0],
    }
    print(f"load {record['load_before']:.1f} to {record['load_after']:.1f}")
    print(
        f"{'system':16}{'seconds':>9}{'own':>7}{'ratio':>7}{'mAP':>8}{'own':>8}"
        f"{'difference':>18}{'over seeds':>12}"
    )
    for row in record["systems"]:
        print(
            f"{row['system']:16}{row['seconds']:9.1f}{row['seconds_own']:7.1f}{row['ratio']:7.2f}"
            f"{np.mean(row['map']):8.4f}{np.mean(row['map_own']):8.4f}"
            f"{row['difference']:+9.4f} ± {row['error']:.4f}{row['spread']:12.4f}"
        )
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return record


if __name__ == "__main__":
    main()
