"""The record of a training step: which part gives what, what feeds it, and where gradients end."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import DeepMethod
from cbir_lite.methods.stages import forward_stages, stages

SHORT = {"bits": 12, "epochs": 1, "batch_size": 32, "width": 16}


def split(supervision="supervised", maps=False, n=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2, 3, 10) if maps else (n, 10)).astype(np.float32)
    return Split(x, np.eye(3, dtype=np.uint8)[np.arange(n) % 3], supervision)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, g):
        return g


class _Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(10, 8), nn.ReLU())
        self.second = nn.Linear(8, 12)
        self.third = nn.Linear(12, 5)
        self.fourth = nn.Linear(5, 5)
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        return self.second(self.first(x))


class Hidden(DeepMethod):
    """Every way in which data goes on: stacked, through a sign, detached, with an own gradient."""

    def build(self, x, n_classes):
        return _Parts()

    def loss(self, batch):
        net = self.network_
        both = torch.stack([net.first(batch.x), torch.zeros(len(batch.x), 8)])
        z = net.second(both[0])
        _ = net.second(both[1])
        straight = net.third(_Through.apply(z))
        cut = net.fourth(net.third(z.sign()).detach())
        return {
            "straight": straight.square().mean(),
            "cut": (cut - straight).square().mean(),
            "shape only": torch.full_like(z, 2.0).mean() + 0 * net.first[0].bias.sum(),
        }

    def training_step(self, batch):
        terms = super().training_step(batch)
        extra = self.network_.third(self.network_(batch.x)).abs().mean()
        self._descend(extra, self._optimisers[0])
        return {**terms, "extra": extra.item()}


def fitted():
    return Hidden(**SHORT).fit(split())


def named(record):
    """Sources by name and place of a stage, each with whether a gradient flows back."""
    return {
        (at, s.name): {record[a].name: flows for a, flows in s.sources}
        for at, s in enumerate(record)
    }


def test_every_source_and_no_other_is_found():
    record = stages(fitted(), split())
    found = named(record)
    assert found[0, "x"] == {}
    assert found[1, "first"] == {"x": True}
    # Stacked with zeros and taken apart again: only one of the two calls reads the first part.
    assert found[2, "second"] == {"first": True}
    assert found[3, "second"] == {}
    assert found[4, "third"] == {"second": True}
    assert found[5, "fourth"] == {"third": False}
    losses = {s.name: {record[a].name for a, _ in s.sources} for s in record if s.kind == "loss"}
    assert losses == {
        "straight": {"third"}, "cut": {"third", "fourth"}, "shape only": set(), "extra": {"third"}
    }  # fmt: skip
    assert "idle" not in {s.name for s in record}


def test_calls_of_one_part_that_the_same_part_feeds_are_one_stage():
    # `third` reads the second part by a straight-through sign, a sign and directly.
    record = stages(fitted(), split())
    assert [s.name for s in record].count("third") == 1
    assert dict(next(s for s in record if s.name == "third").sources) == {2: True}


def test_a_sign_passes_data_but_no_gradient():
    class Signed(Hidden):
        def loss(self, batch):
            return {"end": self.network_.third(self.network_(batch.x).sign()).mean()}

        training_step = DeepMethod.training_step

    record = stages(Signed(**SHORT).fit(split()), split())
    assert [(s.name, s.sources) for s in record[2:]] == [
        ("second", ((1, True),)),
        ("third", ((2, False),)),
        ("end", ((3, True),)),
    ]


@pytest.mark.parametrize(
    ("id_", "maps"), [("dpsh", False), ("bgan", False), ("dsah", True), ("dph_progressive", True)]
)
def test_shapes_and_types_are_those_of_a_pass_by_hand(id_, maps):
    cls = registry.get(id_)
    data = split(cls.supervision, maps)
    method = registry.create(id_, **SHORT).fit(data)
    record = stages(method, data, rows=20)
    seen = {}

    def note(name):
        def hook(module, args, output):
            outputs = output if isinstance(output, tuple) else (output,)
            shapes = [tuple(t.shape) for t in outputs if isinstance(t, torch.Tensor)]
            seen.setdefault(name, (type(module), tuple(shapes)))

        return hook

    handles = [
        m.register_forward_hook(note(name)) for name, m in method.network_.named_modules() if name
    ]
    x = torch.from_numpy(method.prepare(data.x[:20]))
    z = method.network_(x)
    if id_ == "bgan":
        method.network_.discriminator(method.network_.generator(z))
        method.network_.target(x)
    if id_ == "dsah":
        method.network_.classifier(z)
    for handle in handles:
        handle.remove()
    parts = [s for s in record if s.kind == "module"]
    assert len(parts) >= 2
    for stage in parts:
        assert stage.shapes == seen[stage.name][1], stage.name
    assert record[0].shapes == (tuple(x.shape),)
    for stage in parts:
        module = method.network_.get_submodule(stage.name)
        leaves = [type(m).__name__ for m in module.modules() if not list(m.children())]
        assert list(stage.layers) == leaves


def test_terms_are_those_of_the_history():
    for id_ in ("dpsh", "bgan", "uadh", "greedyhash"):
        cls = registry.get(id_)
        data = split(cls.supervision)
        method = registry.create(id_, **SHORT).fit(data)
        losses = {s.name for s in stages(method, data) if s.kind == "loss"}
        assert losses == set(method.history_[-1]), id_


def test_the_discriminator_of_bgan_reads_real_and_made():
    data = split("unsupervised")
    record = stages(registry.create("bgan", **SHORT).fit(data), data)
    readers = [s for s in record if s.kind == "module" and s.name == "discriminator"]
    assert [[record[a].name for a, _ in s.sources] for s in readers] == [
        ["generator"],
        ["standardise"],
    ]
    perceptual = next(s for s in record if s.name == "perceptual")
    assert sorted(flows for _, flows in perceptual.sources) == [False, True]


def test_parts_are_opened_by_name():
    data = split("unsupervised")
    method = registry.create("bgan", **SHORT).fit(data)
    names = [s.name for s in stages(method, data, opened=("encoder", "encoder.trunk"))]
    assert names[2:5] == ["encoder.trunk.0", "encoder.trunk.1", "encoder.trunk.2"]
    assert "encoder.hash_layer" in names
    assert "encoder" not in names
    for wrong in ("nobody", "standardise"):
        with pytest.raises(ValueError, match=f"'{wrong}' has no parts.*encoder, generator"):
            stages(method, data, opened=(wrong,))


def test_nothing_of_the_system_or_the_world_changes():
    data = split()
    method = registry.create("dpsh", **SHORT).fit(data)
    before = {k: v.clone() for k, v in method.network_.state_dict().items()}
    memory = {k: v.clone() for k, v in method.memory_.items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = stages(method, data)
    assert torch.equal(torch.rand(2), expected)
    assert first == stages(method, data)
    assert all(torch.equal(v, before[k]) for k, v in method.network_.state_dict().items())
    assert all(torch.equal(v, memory[k]) for k, v in method.memory_.items())
    assert not method.network_.training
    assert not method.network_.trunk[0]._forward_hooks
    assert "_split" not in vars(method)


def test_any_network_can_be_passed_through():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(4, 7)

        def forward(self, x):
            y = F.relu(self.conv(x.permute(0, 3, 1, 2).float()))
            return self.head(self.pool(y).flatten(1))

    net = Net().train()
    images = torch.randint(0, 255, (5, 8, 8, 3), dtype=torch.uint8)
    record = forward_stages(net, images)
    assert [(s.name, s.shapes) for s in record] == [
        ("x", ((5, 8, 8, 3),)),
        ("conv", ((5, 4, 6, 6),)),
        ("pool", ((5, 4, 1, 1),)),
        ("head", ((5, 7),)),
    ]
    assert [dict(s.sources) for s in record] == [{}, {0: False}, {1: True}, {2: True}]
    assert record[1].layers == ("Conv2d", "BatchNorm2d", "ReLU")
    assert net.training
    assert net.conv[1].num_batches_tracked == 0
