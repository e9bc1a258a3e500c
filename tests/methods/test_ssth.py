"""SSTH: binary LSTM and decoders step by step, gradient of the sign, playing and rewinding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.recurrent.ssth import BinaryLSTM, Decoder, binarise
from cbir_lite.methods.registry import create


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_sign_is_exact_and_its_gradient_ends_at_one():
    h = torch.tensor([-3.0, -0.5, 0.0, 0.9, 1.5], requires_grad=True)
    b = binarise(h)
    assert b.tolist() == [-1, -1, 1, 1, 1]
    (b * torch.arange(1.0, 6.0)).sum().backward()
    assert h.grad.tolist() == [0, 2, 3, 4, 0]


def naive_binary_lstm(cell: BinaryLSTM, v: np.ndarray) -> np.ndarray:
    """Gates, cell and binary state, one step after the other, with running statistics."""
    W, bias = (p.detach().double().numpy() for p in (cell.from_input.weight, cell.from_input.bias))
    U, P = (p.detach().double().numpy() for p in (cell.from_hidden.weight, cell.peepholes))
    K = cell.bits
    rows = []
    for frames in v:
        c, h = np.zeros(K), np.zeros(K)
        for t, frame in enumerate(frames):
            bn = cell.normalise[t]
            mean, var = bn.running_mean.double().numpy(), bn.running_var.double().numpy()
            gates = W @ frame + bias + U @ h
            i = sigmoid(gates[:K] + P[0] * c)
            f = sigmoid(gates[K : 2 * K] + P[1] * c)
            c = f * c + i * np.tanh(gates[2 * K : 3 * K])
            c = (c - mean) / np.sqrt(var + bn.eps)
            c = c * bn.weight.detach().double().numpy() + bn.bias.detach().double().numpy()
            out = sigmoid(gates[3 * K :] + P[2] * c) * c
            h = np.where(out >= 0, 1.0, -1.0)
        rows.append(out)
    return np.array(rows)


def test_binary_lstm_is_that_of_explicit_steps():
    torch.manual_seed(0)
    cell = BinaryLSTM(3, 4)
    v = torch.randn(6, 5, 3)
    cell(v)
    cell.eval()
    with torch.no_grad():
        found = cell(v).numpy()
    np.testing.assert_allclose(found, naive_binary_lstm(cell, v.double().numpy()), atol=1e-5)


def naive_decoder(decoder: Decoder, b: np.ndarray) -> np.ndarray:
    """Frames of codes b (B, bits), one step after the other, with the code read at every step."""
    (W, U, bias, more), start, frame = (
        [p.detach().double().numpy() for p in part.parameters()]
        for part in (decoder.lstm, decoder.start, decoder.frame)
    )
    K = U.shape[1]
    rows = []
    for code in b:
        h, c = np.tanh(start[0] @ code + start[1]), np.zeros(K)
        replayed = []
        for _ in range(5):
            gates = W @ code + bias + U @ h + more
            i, f, o = (sigmoid(gates[k * K : (k + 1) * K]) for k in (0, 1, 3))
            c = f * c + i * np.tanh(gates[2 * K : 3 * K])
            h = o * np.tanh(c)
            replayed.append(frame[0] @ h + frame[1])
        rows.append(replayed)
    return np.array(rows)


def test_losses_are_errors_of_both_orders(lab):
    method = lab.create("ssth", lab.SHORT, bits=16)
    split = lab.make_split(method, 128)
    method.fit(split)
    index = torch.tensor([3, 50, 9, 77, 20, 41])
    x, views = (torch.from_numpy(v)[index] for v in (split.x, split.views))
    net = method.network_
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(Batch(x, None, index, views)).items()}
        frames = [net.frames(f) for f in (views[:, 0], views[:, 1], x, views[:, 2], views[:, 3])]
        b = net.encode(torch.stack(frames, 1))
    b = np.where(b.numpy() >= 0, 1.0, -1.0)
    play, rewind = (naive_decoder(d, b) for d in (net.forward_decoder, net.reverse_decoder))
    frames = [f.double().numpy() for f in frames]
    k = frames[0].shape[1]
    expected = {
        "play": sum(((play[:, t] - frames[t]) ** 2).sum() for t in range(5)) / (6 * 5 * k),
        "rewind": sum(((rewind[:, t] - frames[4 - t]) ** 2).sum() for t in range(5)) / (6 * 5 * k),
    }
    assert terms == pytest.approx(expected, rel=1e-4)


def test_a_still_image_is_a_video_that_does_not_move(lab, digits):
    method = lab.smoke_fit("ssth").method
    net = method.network_
    x = torch.from_numpy(digits.query.pooled[:9])
    with torch.no_grad():
        video = torch.stack([net.frames(x)] * 5, 1)
        found = net.encode(video).numpy()
    np.testing.assert_allclose(method.embed(x.numpy()), found, atol=1e-5)


def test_codes_replay_the_video_and_know_which_way_it_turned(lab):
    method = lab.smoke_fit("ssth").method
    first, last = method.history_[0], method.history_[-1]
    for name in ("play", "rewind"):
        assert last[name] < 0.7 * first[name]
    fit = lab.smoke_fit("ssth")
    x, views = torch.from_numpy(fit.split.x[:64]), torch.from_numpy(fit.split.views[:64])
    net = method.network_
    with torch.no_grad():
        v = method.video(Batch(x, None, torch.arange(64), views))
        b = torch.where(net.encode(v) >= 0, 1.0, -1.0)
        right = (net.forward_decoder(b) - v).square().mean()
        foreign = (net.forward_decoder(b.flip(0)) - v).square().mean()
        backwards = (net.reverse_decoder(b) - v).square().mean()
        rewound = (net.reverse_decoder(b) - v.flip(1)).square().mean()
    assert right < 0.6 * foreign
    assert rewound < backwards


def test_without_views_it_says_which_are_missing(digits):
    with pytest.raises(ValueError, match="rotate-10"):
        create("ssth", bits=8).fit(Split(digits.train.pooled[:40], supervision="self-supervised"))
