"""SSGAH [147]: semi-supervised generative adversarial hashing (survey Sections IV-C, V-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, shares_label
from cbir_lite.methods.gan._players import FewLabels, Flat, hidden, telling


class TripletGenerator(nn.Module):
    """A positive and a negative, vectors (B, d) each, for queries (B, d) and noise (B, noise)."""

    def __init__(self, d: int, noise: int, width: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(d + noise, width), nn.ReLU())
        self.positive, self.negative = nn.Linear(width, d), nn.Linear(width, d)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The positive is the query changed, the negative is made from nothing."""
        y = self.hidden(torch.cat([x, noise], 1))
        return x + self.positive(y), self.negative(y)


class Networks(nn.Module):
    """Hash network, generator and discriminator of triplets; calling it gives z (B, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, noise: int, dropout: float):
        super().__init__()
        self.flat = Flat(x)
        d, narrow = self.flat.d, max(1, width // 4)
        self.hash = nn.Sequential(hidden(d, width, dropout), nn.Linear(width, bits))
        self.generator = TripletGenerator(d, noise, narrow)
        self.discriminator = nn.Sequential(
            nn.Linear(3 * d, narrow), nn.LeakyReLU(0.2), nn.Linear(narrow, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hash layer for inputs (B, ...), before tanh."""
        z: Tensor = self.hash(self.flat(x))
        return z


def real_triplets(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (T,) of queries, of a positive and of a negative of each, drawn by s (B, B) in {0, 1}.

    Queries without a positive other than themselves, or without a negative, are left out.
    """
    positive, negative = s - torch.diag(s.diagonal()), 1 - s
    query = ((positive.sum(1) > 0) & (negative.sum(1) > 0)).nonzero().squeeze(1)
    if not len(query):
        return query, query, query
    like, unlike = (torch.multinomial(m[query], 1).squeeze(1) for m in (positive, negative))
    return query, like, unlike


@dataclass(kw_only=True, eq=False)
class SSGAHWang(FewLabels):
    r"""A generator completes unlabelled images to triplets; the hash network ranks them.

    For a query the generator makes a positive and a negative. A discriminator tells such triplets
    from those that labels give, so that the generator learns what similar and dissimilar means and
    can say it for images without labels. The hash network learns to rank both kinds of triplets;
    the generator also tries to make triplets that the hash network ranks wrongly.

    :survey: Sections IV-C, V-D, VIII-A
    :cite: wang2018ssgah
    :source: the paper's abstract (generative, discriminative and hashing model in one game,
        distribution of triplets, semi-supervised and adversary ranking loss); its equations were
        not at hand and no public code was found
    :objective: \min_{H,D}\max_G\ L_D+\overline{[m+d(q,p)-d(q,n)]_+}
        +\lambda\,\overline{[m+d(q,\hat p)-d(q,\hat n)]_+}+\eta\,\overline{(h-\mathrm{sgn}(h))^2},
        \quad L_D=-\log D(q,p,n)-\log(1-D(q,\hat p,\hat n)),\quad
        (\hat p,\hat n)=G(q,\epsilon),\ d(a,b)=\tfrac12-\tfrac1{2K}h_a^\top h_b
    :shapes: x (n, d), labels (n, C), zero where unknown; h (n, bits); codes int8 (n, bits)
    :defaults: m = 0.2 (a share of the bits), lambda = 0.1, eta = 0.01, noise = 64, labelled = 64
        labelled rows drawn a step beside the batch (own choices, made on digits)
    :departures: the forms of the losses, their weights and the networks were not at hand and are
        this package's. Images are the frozen backbone's features, and so is what the generator
        makes; one hidden layer each; the generator minimises -log D; Adam with cosine decay
    :fidelity: sketch
    """

    players = (("hash", "discriminator"), ("generator",))

    m: float = 0.2
    lambda_R: float = 0.1
    eta: float = 0.01
    noise: int = 64

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash network, generator and discriminator."""
        return Networks(x, self.width, self.bits, self.noise, self.dropout)

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A positive and a negative for each query (B, d)."""
        net: Any = self.network_
        made: tuple[Tensor, Tensor] = net.generator(x, torch.randn(len(x), self.noise))
        return made

    def judge(self, query: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Logit (B,) that triplets (B, d) come from labels."""
        net: Any = self.network_
        logit: Tensor = net.discriminator(torch.cat([query, positive, negative], 1))
        return logit.squeeze(1)

    def ranking(self, h: Tensor, s: Tensor) -> Tensor:
        """Mean hinge over all triplets of codes h (B, bits) that s (B, B) in {0, 1} gives."""
        d = 0.5 - 0.5 * h @ h.T / h.shape[1]
        positive, negative = s - torch.diag(s.diagonal()), 1 - s
        valid = positive[:, :, None] * negative[:, None, :]
        hinge = F.relu(self.m + d[:, :, None] - d[:, None, :])
        return (valid * hinge).sum() / valid.sum().clamp(min=1)

    def made_ranking(self, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean hinge over made triplets of vectors (B, d)."""
        net: Any = self.network_
        h, p, n = torch.tanh(net.hash(torch.cat([x, positive, negative]))).chunk(3)
        d_p, d_n = (0.5 - 0.5 * (h * other).mean(1) for other in (p, n))
        return self.lambda_R * F.relu(self.m + d_p - d_n).mean()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What hash network and discriminator minimise."""
        net: Any = self.network_
        known = self.draw_labelled()
        assert known.y is not None
        s, x, k = shares_label(known.y, known.y), net.flat(batch.x), net.flat(known.x)
        h = torch.tanh(net.hash(k))
        q, p, n = (k[rows] for rows in real_triplets(s))
        made = [t.detach() for t in self.draw(x)]
        terms = {
            "ranking": self.ranking(h, s),
            "made": self.made_ranking(x, *made),
            "quantization": self.eta * (h - sign(h.detach())).square().mean(),
        }
        if len(q):
            terms["discriminator"] = telling(self.judge(q, p, n), self.judge(x, *made))
        return terms

    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """What the generator minimises: triplets taken for real, and ranked wrongly."""
        net: Any = self.network_
        x = net.flat(batch.x)
        made = self.draw(x)
        return {
            "adversarial": F.softplus(-self.judge(x, *made)).mean(),
            "adversary ranking": -self.made_ranking(x, *made),
        }
