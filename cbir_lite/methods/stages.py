"""The parts of a real network, in order: what each is, what shape it gives, and what feeds it.

One training step is run on a copy of a fitted system, without moving a parameter, and every call of
a part of its network is written down. What feeds what is found by trying: the step is run again
with one part's output changed and those of all others held, and whatever then reads something else
is fed by that part. Diagrams of network types are drawn from these records (survey, Figs 4, 6, 7),
so that they show the code that runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch, DeepMethod


@dataclass(frozen=True)
class Stage:
    """An input, a part of a network, or a loss term.

    Attributes:
        name: what the system calls it; one part called twice gives two stages of one name.
        kind: ``input``, ``module`` or ``loss``.
        layers: types of its layers, in order.
        shapes: shape of each tensor it gives.
        sources: positions of the earlier stages that feed it, and whether a gradient flows back.
    """

    name: str
    kind: str = "module"
    layers: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    sources: tuple[tuple[int, bool], ...] = ()


def stages(
    method: DeepMethod, split: Split, *, rows: int | None = None, opened: Collection[str] = ()
) -> list[Stage]:
    """What one training step of a fitted system does with ``rows`` rows (default: a batch).

    ``split`` is the one it was fitted on. Parts are the children of ``network_``; those named in
    ``opened`` (such as ``encoder`` or ``image.trunk``), and an only child, are shown by their own
    children. Parts that the step does not call are left out. The system is not changed.

    Raises ``ValueError`` for a name in ``opened`` that is no part, or has no parts.
    """
    method._require_fit()
    labels = split.labels if method.n_classes_ is not None else None
    data = method._tensors(method.prepare(split.x), labels, split)
    whole = data.batch(torch.arange(min(rows or method.batch_size, len(data))))
    names = [n for n in ("x", "views", "other") if getattr(whole, n) is not None]

    def step(run: _Run) -> None:
        copied: Any = copy.deepcopy(method)
        copied._split = split
        copied.network_.train()
        copied._optimisers = copied.optimisers()
        given = {n: run.give_input(n, getattr(whole, n)) for n in names}
        batch = Batch(y=whole.y, index=whole.index, **given)
        run.watch_losses(copied)
        with run.calls_of(copied.network_, opened):
            run.name_losses(copied.training_step(batch))

    return _stages(step, method.seed)


def forward_stages(module: nn.Module, x: Tensor, *, opened: Collection[str] = ()) -> list[Stage]:
    """The same for any network: one forward pass of a batch, in evaluation mode, no losses.

    Layers that it does not call, such as the classifier of a backbone, are not listed.
    """

    def step(run: _Run) -> None:
        copied = copy.deepcopy(module).eval()
        given = run.give_input("x", x)
        with run.calls_of(copied, opened):
            copied(given)

    return _stages(step, 0, called_only=True)


@dataclass
class _Event:
    """Something that read tensors, and what it gave: an input, a call of a part, a loss."""

    kind: str
    name: str
    layers: tuple[str, ...] = ()
    read: Sequence[Tensor] = ()
    gave: Any = ()
    leaves: Sequence[Tensor] = ()


class _Run:
    """The events of one step; those of ``held`` give what they gave then, ``changed`` noise."""

    def __init__(self, held: Sequence[_Event] = (), changed: int = -1, called_only: bool = False):
        self.events: list[_Event] = []
        self._held = held
        self._changed = changed
        self._called_only = called_only
        self._called: set[int] = set()
        self._named = False
        self._nameless: list[Tensor] = []

    def give_input(self, name: str, x: Tensor) -> Tensor:
        """An input of the step."""
        given: Tensor = self._give(_Event("input", name, gave=x))
        return given

    def _give(self, event: _Event) -> Any:
        """What others get to read of it: cut off from what came before, to see gradients end."""
        at = len(self.events)
        self.events.append(event)
        if self._held:
            event.gave = self._held[at].gave
        if at == self._changed:
            noise = torch.Generator().manual_seed(at)
            event.gave = _map(event.gave, lambda t: _altered(t, noise))
        leaves = []

        def cut(t: Tensor) -> Tensor:
            t = t.detach()
            if t.is_floating_point() and torch.is_grad_enabled():
                leaves.append(t.requires_grad_())
                return t.clone()  # a leaf could not be written to
            return t

        given = _map(event.gave, cut)
        event.gave, event.leaves = _map(event.gave, Tensor.detach), leaves
        return given

    @contextmanager
    def calls_of(self, network: nn.Module, opened: Collection[str]) -> Iterator[None]:
        """Inside, calls of the network's parts are events."""
        handles = []
        for name, part in _parts(network, opened).items():

            def hook(
                module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name
            ) -> Any:
                layers = [
                    m for m in _layers(module) if not self._called_only or id(m) in self._called
                ]
                read, types = _flat([args, kwargs]), tuple(map(_type, layers))
                return self._give(_Event("module", name, types, read, output))

            for layer in _layers(part):
                handles.append(layer.register_forward_pre_hook(self._note_call))
            handles.append(part.register_forward_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note_call(self, module: nn.Module, args: Any) -> None:
        self._called.add(id(module))

    def watch_losses(self, method: Any) -> None:
        """Loss terms of the system are events, too; nothing descends."""

        def watched(terms_of: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
            def call(*args: Any) -> dict[str, Tensor]:
                terms = terms_of(*args)
                self.events += [_Event("loss", name, read=[v]) for name, v in terms.items()]
                self._named = True
                return terms

            return call

        def descend(loss: Tensor, optimiser: Any) -> None:
            if not self._named:
                self._nameless.append(loss)
            self._named = False

        for hook in ("loss", "answer"):
            if hasattr(method, hook):
                setattr(method, hook, watched(getattr(method, hook)))
        method._descend = descend

    def name_losses(self, values: dict[str, float]) -> None:
        """Losses beside ``loss`` and ``answer`` have the names under which the step logs them."""
        known = {event.name for event in self.events if event.kind == "loss"}
        rest = [name for name in values if name not in known]
        for name, loss in zip(rest, self._nameless, strict=False):
            self.events.append(_Event("loss", name, read=[loss]))


def _stages(step: Callable[[_Run], None], seed: int, called_only: bool = False) -> list[Stage]:
    """Run once to see what there is, then once for each event that gives something."""

    def run(held: Sequence[_Event] = (), changed: int = -1) -> list[_Event]:
        one = _Run(held, changed, called_only)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            step(one)
        return one.events

    events = run()
    fed: list[dict[int, bool]] = [{} for _ in events]
    for a, event in enumerate(events):
        if event.kind == "loss":
            continue
        for b, other in enumerate(run(events, a)[a + 1 :], a + 1):
            if any(not torch.equal(t, u) for t, u in zip(events[b].read, other.read, strict=True)):
                fed[b][a] = _gradient_flows(events[b].read, event.leaves)
    return _merged(events, fed)


def _gradient_flows(read: Sequence[Tensor], leaves: Sequence[Tensor]) -> bool:
    wanted = [t for t in read if t.requires_grad]
    if not wanted or not leaves:
        return False
    noise = torch.Generator().manual_seed(0)
    weights = [torch.randn(t.shape, generator=noise).to(t.dtype) for t in wanted]
    found = torch.autograd.grad(wanted, list(leaves), weights, retain_graph=True, allow_unused=True)
    return any(g is not None and bool(g.any()) for g in found)


def _merged(events: Sequence[_Event], fed: Sequence[dict[int, bool]]) -> list[Stage]:
    """Calls of the same part that the same stages feed are one stage."""
    found: dict[Any, Stage] = {}
    place: list[int] = []
    for event, sources in zip(events, fed, strict=True):
        mine: dict[int, bool] = {}
        for a, flows in sources.items():
            mine[place[a]] = mine.get(place[a], False) or flows
        key = event.kind, event.name, frozenset(mine)
        if key in found:
            for a, flows in found[key].sources:
                mine[a] = mine[a] or flows
        shapes = tuple(tuple(t.shape) for t in _flat(event.gave, 1))
        found[key] = Stage(
            event.name, event.kind, event.layers, shapes, tuple(sorted(mine.items()))
        )
        place.append(list(found).index(key))
    return list(found.values())


def _parts(network: nn.Module, opened: Collection[str]) -> dict[str, nn.Module]:
    """Children by name, in order; an only child and those in ``opened`` by their own children."""
    parts = dict(network.named_children())
    while len(parts) == 1 and len(list(next(iter(parts.values())).children())) > 1:
        ((name, only),) = parts.items()
        parts = {f"{name}.{k}": v for k, v in only.named_children()}
    for name in sorted(opened, key=lambda n: n.count(".")):
        if not list(parts.get(name, nn.Identity()).children()):
            raise ValueError(f"{name!r} has no parts to be shown: there are {', '.join(parts)}")
        wider: dict[str, nn.Module] = {}
        for k, v in parts.items():
            wider |= {f"{k}.{c}": w for c, w in v.named_children()} if k == name else {k: v}
        parts = wider
    return parts


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers that hold parameters themselves or have no parts, in order."""

    def walk(m: nn.Module) -> Iterator[nn.Module]:
        if not list(m.children()) or any(True for _ in m.parameters(recurse=False)):
            yield m
        else:
            for child in m.children():
                yield from walk(child)

    return [m for m in walk(module) if not isinstance(m, nn.Identity)]


def _type(module: nn.Module) -> str:
    """The layer of PyTorch that it is or refines, else its own type."""
    known = [c.__name__ for c in type(module).__mro__ if c.__module__.startswith("torch.nn")]
    return type(module).__name__ if known[0] in ("Module", "Sequential") else known[0]


def _altered(t: Tensor, noise: torch.Generator) -> Tensor:
    """Other values of the same shape and type, of the same scale."""
    if t.dtype == torch.uint8:
        return 255 - t
    if not t.is_floating_point():
        return t
    scale = t.float().std(unbiased=False).clamp_min(1e-3)
    return t + (scale * torch.randn(t.shape, generator=noise)).to(t.dtype)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested lists, tuples and dicts with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: _map(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(v, change) for v in value)
    return value


def _flat(value: Any, depth: int = 9) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts, down to a depth."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and depth:
        return [t for item in value for t in _flat(item, depth - 1)]
    return []
