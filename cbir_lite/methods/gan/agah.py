"""AGAH [160]: adversary guided asymmetric hashing (survey Sections V-D, VII-A, VII-H)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cbir_lite.methods.base import sign
from cbir_lite.methods.cross_modal._shared import cosine_distance, quantization, two_way_triplet
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import trunk
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_SHARPNESS = 5.0
_PENALTY = 10.0


def code_map(codes: Tensor, target: Tensor, M: Tensor) -> Tensor:
    """One sweep over the bits of class codes M (C, bits), each minimising ||codes M' - target||^2.

    ``codes`` (n, bits), ``target`` (n, C). A column is solved exactly with the others fixed, so
    the objective never rises.
    """
    M, gram, pull = M.clone(), codes.T @ codes, target.T @ codes
    for k in range(M.shape[1]):
        rest = M @ gram[:, k] - M[:, k] * gram[k, k]
        M[:, k] = sign(pull[:, k] - rest).float()
    return M


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Mean squared excess over 1 of the critic's gradient norm between real and fake (B, d)."""
    share = torch.rand_like(real)
    between = (share * real + (1 - share) * fake).requires_grad_()
    slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
    return (slope.norm(dim=1) - 1).square().mean()


class _Unit(nn.Module):
    def forward(self, f: Tensor) -> Tensor:
        """Rows scaled to unit length."""
        return F.normalize(f, dim=1)


class AttendedTower(nn.Module):
    """A unit feature that looks up the classes it resembles, and a code from both."""

    feature_map: Tensor

    def __init__(self, inner: nn.Module, width: int, features: int, bits: int, classes: int):
        super().__init__()
        self.feature = nn.Sequential(inner, nn.Linear(width, features), nn.ReLU(), _Unit())
        self.hash_layer = nn.Linear(features, bits)
        self.register_buffer("feature_map", torch.zeros(classes, features))
        self.own = 1.0

    def attended(self, f: Tensor) -> Tensor:
        """Features (B, features) mixed with the mean features of the classes they resemble."""
        mask = torch.sigmoid(_SHARPNESS * f @ self.feature_map.T)
        looked_up = mask @ self.feature_map / mask.sum(1, keepdim=True)
        return self.own * f + (1 - self.own) * looked_up

    def code(self, f: Tensor) -> Tensor:
        """h in (-1, 1) (B, bits) of unit features."""
        h: Tensor = self.hash_layer(self.attended(f)).tanh()
        return h

    def forward(self, x: Tensor) -> Tensor:
        """h of a batch of inputs."""
        return self.code(self.feature(x))


@dataclass(kw_only=True, eq=False)
class AGAH(TwoTowerMethod):
    r"""Two critics bring the modalities together, and labels say what to attend to.

    Each modality gives a unit feature. A critic tells features of one modality from those of the
    other, and the other learns to be taken for it, in both directions. The feature is then
    compared with the mean feature of every label, a soft mask says which labels it resembles, and
    what the mask picks is mixed into the feature before the hash layer: the multi-label
    attention. The codes answer to triplets across modalities and, asymmetrically, to one binary
    code for every label, which is found bit by bit.

    ADAH of reference 145, with masks that hide parts of the input, is another system (``adah``).

    :survey: Sections V-D, VII-A, VII-H
    :cite: gu2019agah
    :source: the authors' public training script (objective, critics, updates of the two maps) and a
        public port of the same code for the networks and the attention
    :objective: \min\ L_{triplet}(h^x,h^t)+\gamma\sum_m\|h^mM^\top-k(2Y-1)\|_F^2
        +\eta\sum_m\|h^m-\mathrm{sgn}\,h^m\|_2^2+\alpha\sum_m\sigma(-\cos(|h^m|,\mathbf 1))
        -\mu\big(D_t(f^x)+D_x(f^t)\big),\quad h=\tanh W\big(\lambda f
        +(1-\lambda)\tfrac{a F}{\|a\|_1}\big),\ a=\sigma(5fF^\top)
    :shapes: x (n, d), other (n, d_t), labels (n, C); f (n, features); F (C, features) and
        M (C, bits) one row a label; codes int8 (n, bits)
    :defaults: lambda = 0.8, margin 0.3 on cosines, gradient penalty 10 as in the code; the
        code sums, here all terms are means (of products divided by k for M): gamma = eta = 0.01
        and alpha = 0.001 keep the proportions to the triplets of its weights 0.001, 1 and 1
        roughly (at larger ones codes collapse on digits); mu = 0.01 is far more than its weight 1
        comes to; 256 features
    :departures: frozen features and word vectors as inputs; features are scaled row by row, the
        code divides a batch by its norm; the label means F and the codes of the step for M come
        from a pass over the training set before each epoch, not from what the batches left; in
        the step for M the target is plus and minus k for all pairs, the code drops the minus;
        triplets of 32 anchors a batch; the classifier, whose weight is zero in the released
        settings, is left out; Adam
    :fidelity: simplified
    """

    modality: ClassVar[str | None] = "text"

    features: int = 256
    own: float = 0.8
    margin: float = 0.3
    anchors: int = 32
    alpha: float = 0.001
    gamma: float = 0.01
    eta: float = 0.01
    mu: float = 0.01

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two attended towers and a critic for each modality."""
        assert n_classes is not None
        network = TwoTowers(
            *(
                AttendedTower(
                    trunk(v, self.width, self.dropout),
                    self.width, self.features, self.bits, n_classes,
                )
                for v in (x, self._others())
            )
        )  # fmt: skip
        for tower in self.towers(network):
            tower.own = self.own
        for critic in ("image_critic", "other_critic"):
            # A constant added to a critic changes nothing, so its last layer has none.
            layers = nn.Linear(self.features, 64), nn.ReLU(), nn.Linear(64, 1, bias=False)
            setattr(network, critic, nn.Sequential(*layers))
        return network

    @staticmethod
    def towers(network: nn.Module) -> list[AttendedTower]:
        """The image tower and the other one."""
        towers = [network.get_submodule(k) for k in ("image", "other")]
        return [t for t in towers if isinstance(t, AttendedTower)]

    def optimisers(self) -> list[Optimizer]:
        """One Adam for the towers, one for the critics."""
        named = list(self.network_.named_parameters())
        return [self.adam([p for n, p in named if ("critic" in n) is own]) for own in (False, True)]

    def start_fit(self, data: TrainingData) -> None:
        """Random codes of the labels."""
        assert data.y is not None
        draw = torch.rand(data.y.shape[1], self.bits, generator=self._generator(-2))
        self.memory_ = {"M": sign(draw - 0.5).float()}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Mean features of the labels for the attention, then one sweep over their codes."""
        assert data.y is not None
        assert data.other is not None
        y, towers = data.y, self.towers(self.network_)
        sides = list(zip(towers, (data.x, data.other), strict=True))
        mean = torch.stack([y.T @ self._in_blocks(t.feature, v) for t, v in sides]).mean(0)
        for tower in towers:
            tower.feature_map.copy_(F.normalize(mean, dim=1))
        M, C = self.memory_["M"], y.shape[1]
        codes = [sign(self._in_blocks(t, v)).float() for t, v in sides]
        target = self.bits * (2 * torch.cat([y, y, torch.eye(C)]) - 1)
        self.memory_["M"] = code_map(torch.cat([*codes, M]), target, M)

    def unit_features(self, batch: Batch) -> list[Tensor]:
        """f of both sides."""
        assert batch.other is not None
        towers = self.towers(self.network_)
        return [t.feature(v) for t, v in zip(towers, (batch.x, batch.other), strict=True)]

    def hashing(self, f: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Terms of the towers for unit features f of both sides."""
        x, t = (tower.code(v) for tower, v in zip(self.towers(self.network_), f, strict=True))
        s, wanted = batch.similarity, 2 * batch.labels - 1
        to_labels = [(h @ self.memory_["M"].T / self.bits - wanted).square().mean() for h in (x, t)]
        large = [F.cosine_similarity(h.abs(), torch.ones_like(h)) for h in (x, t)]
        critics = [self.network_.get_submodule(k) for k in ("other_critic", "image_critic")]
        taken = [critic(v).mean() for critic, v in zip(critics, f, strict=True)]
        return {
            "triplet": two_way_triplet(cosine_distance(x, t), s, self.margin, self.anchors),
            "labels": self.gamma * torch.stack(to_labels).sum(),
            "quantization": self.eta * quantization(x, t),
            "even": self.alpha * torch.sigmoid(-torch.cat(large)).mean(),
            "adversary": -self.mu * torch.stack(taken).sum(),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What the towers minimise, with the critics as they are."""
        return self.hashing(self.unit_features(batch), batch)

    def criticism(self, f: list[Tensor]) -> Tensor:
        """What the critics minimise: each wants its own modality high and the other one low."""
        total = torch.zeros(())
        turns: list[tuple[str, Tensor, Tensor]] = [
            ("image_critic", f[0], f[1]), ("other_critic", f[1], f[0])
        ]  # fmt: skip
        for name, real, fake in turns:
            critic = self.network_.get_submodule(name)
            penalty = _PENALTY * gradient_penalty(critic, real, fake)
            total = total + critic(fake).mean() - critic(real).mean() + penalty
        return total

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of the critics on fixed features, then one of the towers."""
        f = self.unit_features(batch)
        criticism = self.criticism([v.detach() for v in f])
        self._descend(criticism, self._optimisers[1])
        terms = self.hashing(f, batch)
        self._descend(sum(terms.values()), self._optimisers[0])
        named = {k: float(v.detach()) for k, v in terms.items()}
        return {**named, "critics": float(criticism.detach())}
