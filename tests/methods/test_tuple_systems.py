"""Systems trained by mined tuples, and DELF: losses by hand, mining, and what is their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.features import aggregation as A
from cbir_lite.methods.attention.solar import SecondOrderAttention
from cbir_lite.methods.cnn.gordo_dir import foreground_overlap
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.registry import create
from cbir_lite.methods.siamese._tuples import Tuples, whitening
from cbir_lite.methods.siamese.siamese_fisher_ong import FisherLayer

NEGATIVES = 3
LEARNERS = ("radenovic_hard", "gordo_e2e", "gordo_dir", "solar", "siamese_fisher_ong")


def fit(name, digits, rows=120, **params):
    scale = {"bits": 8, "epochs": 1, "batch_size": 16, "width": 32, "negatives": NEGATIVES}
    known = create(name).params
    params = {**{k: v for k, v in scale.items() if k in known}, **params}
    method = create(name, **params)
    return method.fit(Split(digits.train.maps[:rows], digits.train.y[:rows], method.supervision))


def some_tuples(count=4, d=5):
    z = np.random.default_rng(1).standard_normal((count * (2 + NEGATIVES), d))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    q, p, n = z[:count], z[count : 2 * count], z[2 * count :].reshape(count, NEGATIVES, d)
    return z, q, p, n


class _Given(torch.nn.Module):
    """In the place of a network: descriptors that are given, whatever the input."""

    def __init__(self, z):
        super().__init__()
        self.z = z

    def forward(self, x):
        return self.z


def loss_of(method, z):
    method.network_ = _Given(torch.from_numpy(z))
    x = torch.zeros(len(z), 2)
    return {k: float(v) for k, v in method.loss(Batch(x, None, torch.arange(len(z)))).items()}


def test_contrastive_losses_pair_by_pair():
    z, q, p, n = some_tuples()
    for name, half, margin in (("radenovic_hard", 0.5, 0.7), ("siamese_fisher_ong", 1.0, 0.7)):
        found = loss_of(create(name, negatives=NEGATIVES), z)
        near = [((q[i] - p[i]) ** 2).sum() for i in range(4)]
        far = [
            sum(max(0, margin - np.linalg.norm(q[i] - n[i, j])) ** 2 for j in range(NEGATIVES))
            for i in range(4)
        ]
        assert found["positive"] == pytest.approx(half * np.mean(near), rel=1e-5)
        assert found["negative"] == pytest.approx(half * np.mean(far), rel=1e-4, abs=1e-9)


def hinges(q, p, n, margin):
    return np.mean(
        [
            max(0, margin + ((q[i] - p[i]) ** 2).sum() - ((q[i] - n[i, j]) ** 2).sum())
            for i in range(len(q))
            for j in range(NEGATIVES)
        ]
    )


def test_triplet_losses_triplet_by_triplet():
    z, q, p, n = some_tuples()
    found = loss_of(create("gordo_e2e", negatives=NEGATIVES, margin=0.3), z)
    assert found["triplet"] == pytest.approx(0.5 * hinges(q, p, n, 0.3), rel=1e-5)
    found = loss_of(create("solar", negatives=NEGATIVES, margin=0.3, lam=2.0), z)
    assert found["triplet"] == pytest.approx(hinges(q, p, n, 0.3), rel=1e-5)
    gaps = [
        ((q[i] - n[i, j]) ** 2).sum() - ((p[i] - n[i, j]) ** 2).sum()
        for i in range(4)
        for j in range(NEGATIVES)
    ]
    second = 2 * np.sqrt(np.mean(np.square(gaps)))
    assert found["second_order"] == pytest.approx(second, rel=1e-5)


def test_ranking_and_objectness_of_proposals(digits):
    method = fit("gordo_dir", digits)
    data = TrainingData(torch.from_numpy(method.prepare(digits.train.maps[:15])), None)
    batch = data.batch(torch.arange(15))
    network = method.network_.double()
    terms = method.loss(Batch(batch.x.double(), None, batch.index))
    z = network(batch.x.double()).detach().numpy()
    q, p, n = z[:3], z[3:6], z[6:].reshape(3, NEGATIVES, -1)
    found = float(terms["triplet"].detach())
    assert found == pytest.approx(hinges(q, p, n, method.margin), rel=1e-5)
    total = 0.0
    for row in batch.x.double():
        for region in row:
            s = float(network.score(network.objectness(region[:-1])).detach())
            chance = 1 / (1 + np.exp(-s))
            total -= np.log(chance if region[-1] >= method.overlap else 1 - chance)
    count = batch.x.shape[0] * batch.x.shape[1]
    assert float(terms["objectness"].detach()) == pytest.approx(total / count, rel=1e-5)


def test_overlap_with_the_box_of_the_foreground():
    maps = torch.full((2, 6, 6, 2), 0.1)
    maps[0, 1:3, 2:6] = 5
    places = [(0, 0, 6), (1, 2, 2), (0, 1, 3), (4, 0, 2)]
    found = foreground_overlap(maps, places)
    box = {(r, c) for r in (1, 2) for c in range(2, 6)}
    for k, (t, a, side) in enumerate(places):
        region = {(r, c) for r in range(t, t + side) for c in range(a, a + side)}
        assert found[0, k].item() == pytest.approx(len(box & region) / len(box | region))
    assert (found[1] == 0).all()


def test_only_the_best_proposals_are_pooled(digits):
    method = fit("gordo_dir", digits, proposals=2)
    x = torch.from_numpy(method.prepare(digits.query.maps[:3]))
    network = method.network_
    with torch.no_grad():
        scores = network.scores(x)
        for i in range(3):
            best = scores[i].argsort(descending=True)[:2]
            naive = sum(F.normalize(network.project(x[i, r, :-1]), dim=0) for r in best)
            found = method.embed(digits.query.maps[i : i + 1])[0]
            np.testing.assert_allclose(found, naive / naive.norm(), atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_tuples_are_a_positive_and_the_nearest_negatives(name, digits):
    method = fit(name, digits)
    y = torch.from_numpy(digits.train.y[:120].astype(np.float32))
    data = TrainingData(torch.zeros(120, 1), y)
    f = method.memory_["descriptors"] = F.normalize(torch.randn(120, 6), dim=1)
    method.memory_.setdefault("group", y.argmax(1))
    same = method.similar(data, torch.arange(120))
    rows = method.mine(data, torch.arange(10), torch.Generator().manual_seed(0))
    t = Tuples(*(v.long() for v in method.tuples(rows[:, None].float())))
    assert 3 <= len(t.query) <= 10
    for q, p, n in zip(t.query[:, 0], t.positive[:, 0], t.negative[..., 0], strict=True):
        assert same[q, p]
        assert q != p
        others = [int(i) for i in (f[q] @ f.T).argsort(descending=True) if not same[q, i]]
        assert n.tolist() == others[:NEGATIVES]
        if method.hard_positives:
            mates = [i for i in range(120) if same[q, i] and i != q]
            assert p == min(mates, key=lambda i: float(f[q] @ f[i]))


def test_the_head_starts_as_principal_components():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32))
    layer, axes = whitening(x, 4), A.principal_whitening(x, 4, 0.5)
    naive = (x - axes.mean) @ axes.projection
    np.testing.assert_allclose(layer(x).detach(), naive, atol=1e-5)


@pytest.mark.parametrize("name", ["gordo_e2e", "gordo_dir", "solar", "siamese_fisher_ong"])
def test_training_improves_on_where_it_starts(name, digits, lab):
    def quality(**params):
        method = fit(name, digits, 300, bits=16, **params)
        q, b = method.embed(digits.query.maps), method.embed(digits.database.maps)
        return lab.mean_ap(method.distance(q, b), lab.relevance()), q

    trained, z = quality(epochs=6, lr=1e-3)
    start, _ = quality(epochs=1, lr=1e-12)
    assert trained > start + 0.01
    # Nothing has fallen together.
    assert np.linalg.norm(z.mean(0)) < 0.9


def test_groups_of_images_hold_like_images(digits):
    method = fit("radenovic_hard", digits, 300)
    group, y = method.memory_["group"].numpy(), digits.train.y[:300].argmax(1)
    same = group[:, None] == group
    np.fill_diagonal(same, False)
    assert (y[:, None] == y)[same].mean() > 0.5
    with pytest.raises(ValueError, match="pool='sum': use one of mac, gem"):
        fit("radenovic_hard", digits, pool="sum")


def test_second_order_attention_starts_as_identity_and_mixes_places():
    torch.manual_seed(0)
    block, x = SecondOrderAttention(6, 4), torch.rand(2, 2, 3, 6)
    np.testing.assert_allclose(block(x).detach(), x)
    torch.nn.init.normal_(block.v.weight)
    found = block(x).detach()[1].reshape(6, 6)
    places = x[1].reshape(6, 6)
    with torch.no_grad():
        for i in range(6):
            f = F.relu(block.f(places[i]))
            logits = [float(f @ F.relu(block.g(places[j]))) / 4**0.5 for j in range(6)]
            share = np.exp(logits) / np.sum(np.exp(logits))
            taken = sum(float(share[j]) * block.h(places[j]) for j in range(6))
            np.testing.assert_allclose(found[i], places[i] + block.v(taken), atol=1e-5)


def test_relations_are_shares(digits):
    method = fit("solar", digits)
    r = method.relations(digits.query.maps[:4])
    assert r.shape == (4, 16, 16)
    np.testing.assert_allclose(r.sum(2), 1, rtol=1e-5)


def test_fisher_layer_is_the_fisher_vector_of_its_mixture(digits):
    torch.manual_seed(0)
    x = digits.train.maps[:60]
    layer = FisherLayer(x, 4, 6, seed=0)
    with torch.no_grad():
        layer.log_weights += torch.randn(4)  # they need not sum to one
        places = layer.project(A.l2n(torch.from_numpy(x[:5])))
        book = A.Codebook(
            layer.means.clone(), layer.log_weights.softmax(0), layer.log_variances.exp()
        )
        naive = A.fisher_vector(places, book)
        found = layer(torch.from_numpy(x[:5]))
    # The package's function takes the exact signed root.
    np.testing.assert_allclose(found, F.normalize(naive), atol=0.02)


def test_delf_classifies_by_the_mean_then_by_attention(digits):
    method = fit("delf", digits, epochs=4)
    network = method._net
    x = torch.from_numpy(digits.query.maps[:6])
    y = torch.from_numpy(digits.query.y[:6].astype(np.float32))
    places = network.standardise(x).flatten(1, 2)
    for attend in (False, True):
        network.attend = attend
        total = 0.0
        with torch.no_grad():
            for i in range(6):
                f = network.local(places[i])
                alpha = F.softplus(network.score(F.relu(network.hidden(places[i]))))[:, 0]
                share = alpha / alpha.sum() if attend else torch.full((16,), 1 / 16)
                logits = network.classifier(sum(share[p] * f[p] for p in range(16)))
                total -= float(logits.log_softmax(0)[y[i].argmax()])
        found = method.loss(Batch(x, y, torch.arange(6)))["classification"].detach()
        assert float(found) == pytest.approx(total / 6, rel=1e-4)


def test_delf_trains_features_first_and_attention_then(digits):
    first, both = fit("delf", digits, epochs=1), fit("delf", digits, epochs=2)
    before = fit("delf", digits, epochs=1, lr=1e-12)
    same = {k: torch.equal(v, before.network_.state_dict()[k]) for k, v in
            first.network_.state_dict().items()}  # fmt: skip
    assert not same["local.weight"]
    moved = {k: v - before.network_.state_dict()[k] for k, v in both.network_.state_dict().items()}
    assert moved["score.weight"].abs().max() > 1e-4
    assert (first.network_.state_dict()["score.weight"] - before.network_.state_dict()[
        "score.weight"]).abs().max() < 1e-6  # fmt: skip


def test_keypoints_are_the_best_places_and_are_matched(digits):
    method = fit("delf", digits, keep=3)
    x = digits.query.maps[:4]
    scores = method.scores(x).reshape(4, 16)
    f = method.embed(x)
    assert f.shape == (4, 24)
    places = method._net.standardise(torch.from_numpy(x)).flatten(1, 2)
    with torch.no_grad():
        best = int(scores[2].argmax())
        top = F.normalize(method._net.local(places[2, best]), dim=0)
    np.testing.assert_allclose(f[2, :8], top, atol=1e-5)
    q, b = f[0].reshape(3, 8).astype(float), f[1].reshape(3, 8).astype(float)
    naive = np.mean([min(np.linalg.norm(a - c) for c in b) for a in q])
    assert method.distance(f, f)[0, 1] == pytest.approx(naive, abs=1e-3)
