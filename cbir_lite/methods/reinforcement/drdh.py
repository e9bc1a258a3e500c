"""DRDH [167]: deep reinforcement de-redundancy hashing (survey Section V-G)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label
from cbir_lite.methods.networks import HashNetwork

Float64 = NDArray[np.float64]

GALLERY = 1000
REPLAY = 4000
SYNC = 50


def average_precision(distance: Tensor, relevant: Tensor) -> Tensor:
    """AP (q,) of rankings by small integer distances (q, n), given what is relevant, bool (q, n).

    Items at equal distances all stand in the middle of their group. 0 where nothing is relevant.
    """
    q, levels = len(distance), int(distance.max()) + 1
    place = (distance + levels * torch.arange(q)[:, None]).flatten()
    items = torch.bincount(place, minlength=q * levels).view(q, levels).float()
    hits = torch.bincount(place[relevant.flatten()], minlength=q * levels).view(q, levels).float()
    rank = items.cumsum(1) - items + (items + 1) / 2
    found = hits.cumsum(1) - hits + (hits + 1) / 2
    return (hits * found / rank).sum(1) / hits.sum(1).clamp(min=1)


@njit
def infer_block(
    B: Float64, G: Float64, sums: Float64, S: Float64, kind: NDArray[Any], block: NDArray[Any]
) -> None:
    """Each bit of the rows ``block`` of B (n, K) in turn becomes its optimum given all others.

    The optimum of ||B B' - K S||^2, in place. G = B'B and the sums of B by label set give the
    inner products with all images without the n x n matrix; S is between label sets.
    """
    K = B.shape[1]
    for j in range(K):
        for i in block:
            k = kind[i]
            # What the error of the pairs (i, m), m != i, without bit j is worth to b_mj.
            g = -(K - 1 - K * S[k, k]) * B[i, j]
            for b in range(K):
                if b != j:
                    g += B[i, b] * G[b, j]
            for m in range(S.shape[0]):
                g -= K * S[k, m] * sums[m, j]
            if g * B[i, j] <= 0:
                continue
            B[i, j] = -B[i, j]
            for b in range(K):
                if b != j:
                    G[b, j] += 2 * B[i, j] * B[i, b]
                    G[j, b] = G[b, j]
            sums[k, j] += 2 * B[i, j]


def infer_codes(y: Tensor, bits: int, sweeps: int, block: int, rng: np.random.Generator) -> Float64:
    """Codes B (n, bits) of signs whose inner products follow the similarities of labels y (n, C).

    Random signs, then ``sweeps`` passes over the images in random blocks of ``block``.
    """
    kinds, kind = y.unique(dim=0, return_inverse=True)
    S = 2 * shares_label(kinds, kinds).double().numpy() - 1
    B = rng.choice([-1.0, 1.0], (len(y), bits))
    members, sums = kind.numpy(), np.zeros((len(kinds), bits))
    np.add.at(sums, members, B)
    G = B.T @ B
    for _ in range(sweeps):
        order = rng.permutation(len(y))
        for a in range(0, len(y), block):
            infer_block(B, G, sums, S, members, order[a : a + block])
    return B


class Networks(nn.Module):
    """Hash network, Q-network over masks (B, bits) and its lagging copy; calling it gives z."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.encoder = HashNetwork(x, width, bits, dropout)
        self.q, self.target = (
            nn.Sequential(nn.Linear(bits, 128), nn.ReLU(), nn.Linear(128, bits + 1))
            for _ in range(2)
        )
        self.target.requires_grad_(False)
        self.target.load_state_dict(self.q.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hash layer (B, bits)."""
        z: Tensor = self.encoder(x)
        return z


@dataclass(kw_only=True, eq=False)
class DRDH(DeepMethod):
    r"""Inferred codes, a network that maps images to them, an agent that drops redundant bits.

    Losses on pairs or triplets of a batch never see the similarities of the whole training set. So
    codes come first, without a network: a block of images after the other takes the signs whose
    inner products with the codes of all images fit the similarities best. Then a network learns
    each bit as a two-class problem, image by image.

    Then the network stands still, and an agent plays: the state is the mask of the bits that are
    on, an action switches one off or ends the episode, and the reward is how much mean average
    precision rises for training images that the hash network has not seen. A deep Q-network with
    replay and a lagging target learns the values of the actions. A code keeps its length; bits
    that are off are +1 everywhere and so count for nothing.

    :survey: Sections V-G, IX; Tables II, IV
    :cite: yang2020drdh
    :source: abstract and highlights on the publisher's page (inference of codes block by block
        that keeps similarities of any number of images, mapping by binary classification of each
        bit, one image at a time, a deep Q-network that removes redundant or harmful bits); neither
        the text with its formulas nor public code was found
    :objective: \min_{B\in\{\pm1\}^{n\times K}}\|BB^\top-KS\|_F^2,\ s_{ij}\in\{-1,1\};\quad
        \text{then}\ \min_\Theta\ \overline{\log\big(1+e^{-b_{ik}u_{ik}}\big)};\quad
        \text{then}\ \max_\pi\mathbb{E}\Big[\sum_t\gamma^tr_t\Big],\
        r_t=100\,\big(\mathrm{mAP}(m_{t+1})-\mathrm{mAP}(m_t)\big),\quad
        \min_\theta\ \overline{\mathrm{Huber}\big(r+\gamma\max_{a'}Q_{\bar\theta}(m',a')
        -Q_\theta(m,a)\big)}
    :shapes: x (n, d), labels (n, C); B and u (n, bits); m (bits,) in {0, 1}; Q (bits + 1,); codes
        sgn(u), int8 (n, bits)
    :defaults: sweeps = 5 over random blocks of 500 images; play = 0.2 of the epochs, an episode a
        batch, at most bits / 4 switched off; reserve = 0.1 of the training images, kept from codes
        and hash network, are the queries of the reward; gamma = 0.9; chance of a random action
        from 1 to 0.1; replay of 4000 steps, 64 a step of descent, the copy renewed every 50 steps
        (own choices)
    :departures: the three steps are the paper's, what each minimises is not known: the squared
        error of the inference, the form of its blocks, and the agent's state, actions, reward and
        schedule are this package's own. The mask kept is the best one on the way of the greedy
        policy. The CNN is replaced by a hidden layer on frozen features
    :fidelity: sketch
    """

    sweeps: int = 5
    block: int = 500
    play: float = 0.2
    reserve: float = 0.1
    gamma: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation:
            raise ValueError(
                f"validation={self.validation} must be 0: rows held out have no inferred codes"
            )

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash network and Q-networks."""
        return Networks(x, self.width, self.bits, self.dropout)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One for the hash network, one for the Q-network."""
        net: Any = self.network_
        return [self.adam(net.encoder.parameters()), self.adam(net.q.parameters())]

    def fit(self, split: Split, **loop: Any) -> Self:
        """Train the hash network, then the agent; keep the mask it finds."""
        super().fit(split, **loop)
        if "queries" in self.memory_:
            self.memory_["mask"] = self.greedy()
        self.memory_ = {"mask": self.memory_["mask"]}
        return self

    def outputs(self, x: Tensor | NDArray[Any], batch_size: int = 2048) -> Tensor:
        """z (n, bits), zero where bits are off: their sign is +1."""
        self._require_fit()
        return super().outputs(x, batch_size) * self.memory_["mask"]

    # -- the hash network ----------------------------------------------------------------------

    def start_fit(self, data: TrainingData) -> None:
        """All bits on; the images kept for the reward; codes of the others (0 for the kept)."""
        assert data.y is not None
        kept = torch.zeros(len(data), dtype=torch.bool)
        order = torch.randperm(len(data), generator=self._generator(-2))
        kept[order[: max(1, round(self.reserve * len(data)))]] = True
        B = torch.zeros(len(data), self.bits)
        rng = np.random.default_rng(self.seed)
        codes = infer_codes(data.y[~kept], self.bits, self.sweeps, self.block, rng)
        B[~kept] = torch.from_numpy(codes).float()
        self.memory_ = {"mask": torch.ones(self.bits), "kept": kept, "B": B}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of every inferred bit as a two-class problem, averaged."""
        target = (1 + self.memory_["B"][batch.index]) / 2
        return {"bits": F.binary_cross_entropy_with_logits(self.network_(batch.x), target)}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """When the agent's turn comes, the codes are frozen and its rate starts anew."""
        turns = min(max(1, round(self.play * self.epochs)), self.epochs - 1)
        left = self.epochs - epoch
        self._playing = left <= turns
        if not self._playing:
            return
        self._random = 0.1 + 0.9 * (left - 1) / max(1, turns - 1)
        for group in self._optimisers[1].param_groups:
            group["lr"] = self.lr
        if "queries" not in self.memory_:
            self._freeze(data)

    def _freeze(self, data: TrainingData) -> None:
        codes, kept = sign(self.outputs(data.x)).float(), self.memory_["kept"]
        seen = (~kept).nonzero().squeeze(1)[:GALLERY]
        assert data.y is not None
        K = self.bits
        self.memory_ |= {
            "queries": codes[kept],
            "gallery": codes[seen],
            "relevant": shares_label(data.y[kept], data.y[seen]) > 0,
            # Steps (mask, action, reward, next mask, ended), and how many were ever written.
            "replay": torch.zeros(REPLAY, 2 * K + 3),
            "written": torch.zeros((), dtype=torch.int64),
        }

    # -- the agent -----------------------------------------------------------------------------

    def quality(self, mask: Tensor) -> float:
        """Mean average precision of the kept images when only the bits of ``mask`` (K,) count."""
        queries, gallery = self.memory_["queries"] * mask, self.memory_["gallery"]
        distance = (mask.sum() - queries @ gallery.T) / 2
        return float(average_precision(distance.round().long(), self.memory_["relevant"]).mean())

    def values(self, q: nn.Module, masks: Tensor) -> Tensor:
        """Q (B, K + 1) of masks (B, K); bits that are off already cannot be chosen."""
        off = F.pad(masks == 0, (0, 1))
        values: Tensor = q(masks)
        return values.masked_fill(off, -torch.inf)

    def temporal_difference(self, steps: Tensor) -> Tensor:
        """Huber loss of the Q-network on steps (B, 2 K + 3) from the replay."""
        K, net = self.bits, self._agent()
        masks, after = steps[:, :K], steps[:, K + 2 : 2 * K + 2]
        action, reward, ended = steps[:, K].long(), steps[:, K + 1], steps[:, -1]
        with torch.no_grad():
            best = self.values(net.target, after).max(1).values
            aim = reward + self.gamma * torch.where(ended > 0, 0.0, best)
        chosen = net.q(masks).gather(1, action[:, None]).squeeze(1)
        return F.smooth_l1_loss(chosen, aim)

    def _agent(self) -> Any:
        return self.network_

    def greedy(self) -> Tensor:
        """The best mask (K,) on the way of the policy that always takes the most valued action."""
        mask = torch.ones(self.bits)
        best, top = mask, self.quality(mask)
        for _ in range(self.bits // 4):
            with torch.no_grad():
                action = int(self.values(self._agent().q, mask[None]).argmax())
            if action == self.bits:
                break
            mask = mask.clone()
            mask[action] = 0
            quality = self.quality(mask)
            if quality > top:
                best, top = mask, quality
        return best

    def _choose(self, mask: Tensor) -> int:
        if float(torch.rand(())) < self._random:
            able = F.pad(mask, (0, 1), value=1.0)
            return int(torch.multinomial(able, 1))
        with torch.no_grad():
            return int(self.values(self._agent().q, mask[None]).argmax())

    def _episode(self) -> dict[str, float]:
        K, mask = self.bits, torch.ones(self.bits)
        first = quality = self.quality(mask)
        errors = []
        for t in range(K // 4):
            action = self._choose(mask)
            after, reward, ended = mask.clone(), 0.0, action == K or t == K // 4 - 1
            if action < K:
                after[action] = 0
                better = self.quality(after)
                reward, quality = 100 * (better - quality), better
            self._remember(torch.cat([mask, torch.tensor([action, reward]), after]), ended)
            errors.append(self._learn())
            mask = after
            if action == K:
                break
        return {"gain": quality - first, "difference": float(np.mean(errors))}

    def _remember(self, step: Tensor, ended: bool) -> None:
        written = self.memory_["written"]
        self.memory_["replay"][int(written) % REPLAY] = F.pad(step, (0, 1), value=float(ended))
        written += 1

    def _learn(self) -> float:
        written = int(self.memory_["written"])
        steps = self.memory_["replay"][torch.randint(0, min(written, REPLAY), (64,))]
        error = self.temporal_difference(steps)
        self._descend(error, self._optimisers[1])
        if written % SYNC == 0:
            net = self._agent()
            net.target.load_state_dict(net.q.state_dict())
        return error.item()

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of the hash network on images that are not kept, or an episode of the agent."""
        if self._playing:
            return self._episode()
        seen = ~self.memory_["kept"][batch.index]
        assert batch.y is not None
        return super().training_step(Batch(batch.x[seen], batch.y[seen], batch.index[seen]))
