"""SSTH [178]: self-supervised temporal hashing (survey Sections IV-C, VI-A, VIII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.shallow._linear import principal_components

_STEPS = 5


def binarise(h: Tensor) -> Tensor:
    """sgn(h); its gradient is that of h where |h| <= 1 and zero elsewhere."""
    soft = h.clamp(-1, 1)
    return soft + (sign(h.detach()) - soft).detach()


class BinaryLSTM(nn.Module):
    """LSTM whose cell is batch-normalised at each step and whose hidden state is binary."""

    def __init__(self, d: int, bits: int):
        super().__init__()
        self.bits = bits
        self.from_input = nn.Linear(d, 4 * bits)
        self.from_hidden = nn.Linear(bits, 4 * bits, bias=False)
        self.peepholes = nn.Parameter(torch.empty(3, bits).uniform_(-0.1, 0.1))
        self.normalise = nn.ModuleList(nn.BatchNorm1d(bits) for _ in range(_STEPS))
        nn.init.ones_(self.from_input.bias[bits : 2 * bits])

    def forward(self, v: Tensor) -> Tensor:
        """Frames (B, T, d) to what is left of the last hidden state before the sign, (B, bits)."""
        B = len(v)
        c, h = v.new_zeros(B, self.bits), v.new_zeros(B, self.bits)
        before = h
        for t, gates in enumerate(self.from_input(v).unbind(1)):
            i, f, g, o = (gates + self.from_hidden(h)).chunk(4, 1)
            i, f = i + self.peepholes[0] * c, f + self.peepholes[1] * c
            c = self.normalise[t](f.sigmoid() * c + i.sigmoid() * g.tanh())
            before = (o + self.peepholes[2] * c).sigmoid() * c
            h = binarise(before)
        return before


class Decoder(nn.Module):
    """Replays frames (B, T, d) from a code (B, bits), which is where its state starts."""

    def __init__(self, bits: int, width: int, d: int):
        super().__init__()
        self.start = nn.Linear(bits, width)
        self.lstm = nn.LSTM(bits, width, batch_first=True)
        self.frame = nn.Linear(width, d)

    def forward(self, b: Tensor) -> Tensor:
        """The code is also the input of every step."""
        state = self.start(b).tanh()[None]
        h = self.lstm(b[:, None].expand(-1, _STEPS, -1), (state, torch.zeros_like(state)))[0]
        v: Tensor = self.frame(h)
        return v


class Networks(nn.Module):
    """Encoder and two decoders on principal components of frames.

    Calling it on still images gives the encoder's output before the sign (B, bits), for the video
    that shows the image all the time.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, x: NDArray[Any], width: int, bits: int, components: int):
        super().__init__()
        k = min(components, x.shape[1])
        mean, V, deviation = principal_components(x, k)
        scale = float(np.sqrt(np.square(deviation).mean())) or 1.0
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("directions", torch.from_numpy((V / scale).astype(np.float32)))
        self.first = nn.LSTM(k, width, batch_first=True)
        self.second = BinaryLSTM(width, bits)
        self.forward_decoder = Decoder(bits, width, k)
        self.reverse_decoder = Decoder(bits, width, k)

    def frames(self, x: Tensor) -> Tensor:
        """Features (..., d) to components (..., k)."""
        v: Tensor = (x - self.mean) @ self.directions
        return v

    def encode(self, v: Tensor) -> Tensor:
        """Frames (B, T, k) to the code before the sign."""
        z: Tensor = self.second(self.first(v)[0])
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Features of still images (B, d)."""
        return self.encode(self.frames(x)[:, None].expand(-1, _STEPS, -1))


@dataclass(kw_only=True, eq=False)
class SSTH(DeepMethod):
    r"""A recurrent encoder watches a video and leaves a binary code from which it can be replayed.

    The hidden state of the last layer is binary at every step, so the code is the state after the
    last frame and nothing is relaxed. Two decoders start from the code: one replays the
    frames in their order, the other rewinds them. The frames themselves are the supervision.

    :survey: Sections IV-C, VI-A, VIII-B
    :cite: zhang2016ssth
    :source: the paper's abstract, a published summary of its parts (two layers, binary LSTM with
        batch normalisation), and the public code of the same authors' later system for the cell
        (normalised cell state, peepholes, gradient of the sign, decoders that start from the code)
    :objective: \min\ \tfrac1{Tk}\sum_t\|v_t-\hat v^{\rightarrow}_t(b)\|^2
        +\|v_t-\hat v^{\leftarrow}_t(b)\|^2,
        \quad b_t=\mathrm{sgn}\big(o_t\odot\mathrm{BN}(c_t)\big),\ b=b_T,\
        \partial\,\mathrm{sgn}(h)/\partial h:=\mathbb 1[|h|\le1]
    :shapes: x (n, d) and its views (n, 4, d); frames (B, 5, k); b (B, bits); codes int8 (n, bits)
    :defaults: k = 256 components, LSTMs of width / 4; chosen here
    :departures: there is no video: the frames are one image turned by -10, -5, 0, 5 and 10 degrees,
        as if the camera rolled, and an image to be encoded is a video that stands still; frames are
        principal components of frozen features instead of 4096 activations; two equally weighted
        decoders of one layer each; Adam
    :fidelity: simplified
    """

    supervision = "self-supervised"
    views: ClassVar[tuple[str, ...]] = ("rotate-10", "rotate-5", "rotate5", "rotate10")

    components: int = 256

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Encoder and decoders."""
        return Networks(x, self.width // 4, self.bits, self.components)

    def video(self, batch: Batch) -> Tensor:
        """Frames (B, 5, k): the image in the middle of its turned views."""
        net: Any = self.network_
        assert batch.views is not None
        turned = batch.views
        x = torch.cat([turned[:, :2], batch.x[:, None], turned[:, 2:]], 1)
        v: Tensor = net.frames(x)
        return v

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared errors of playing and rewinding, means over frames and components."""
        net: Any = self.network_
        v = self.video(batch)
        b = binarise(net.encode(v))
        return {
            "play": F.mse_loss(net.forward_decoder(b), v),
            "rewind": F.mse_loss(net.reverse_decoder(b), v.flip(1)),
        }
