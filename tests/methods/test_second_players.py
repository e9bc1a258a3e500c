"""Systems with several players: each second player lowers its own term while the others rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets.split import SHOWS

# The system, which of its optimisers is the player's, and the logged terms the player minimises.
PLAYERS = [
    ("acmr", 1, ("judge",)),
    ("agah", 1, ("critics",)),
    ("bgan", 1, ("discriminator",)),
    ("bgan_plus", 1, ("discriminator",)),
    ("bingan", 1, ("feature",)),
    ("gdh", 1, ("critics",)),
    ("hashgan_cao", 1, ("generator", "conditional")),
    ("hashgan_cao", 2, ("wasserstein", "penalty", "embedded", "embedded fakes")),
    ("hashgan_ghasedi", 1, ("matching", "readable")),
    ("sem_pcyc", 1, ("critics",)),
    ("ssah_jin", 1, ("against hard", "against consistency")),
    ("ssah_li", 1, ("judges",)),
    ("ssgah_wang", 1, ("adversarial", "adversary ranking")),
    ("stacked_adversarial_sbir", 1, ("critics",)),
    ("tbh", 1, ("discriminators",)),
    ("uadh", 1, ("discriminator",)),
]


def fitted(lab, name):
    """A system after two short epochs on digits, ready to go on, and a batch of its rows."""
    method = lab.create(name, lab.SHORT, bits=8, seed=0, dropout=0.0)
    split = lab.make_split(method, lab.SHORT_ROWS)
    method.fit(split)
    method.network_.train()
    if name == "hashgan_cao":
        # Critic and generator play in the first epochs only.
        method._playing = True
    labels = None if SHOWS[method.sees] == "none" else split.labels
    return method, method._tensors(split.x, labels, split).batch(torch.arange(64))


@pytest.mark.parametrize(
    ("name", "player", "terms"), PLAYERS, ids=[f"{name}-{terms[0]}" for name, _, terms in PLAYERS]
)
def test_the_player_lowers_its_own_term_while_all_others_rest(lab, name, player, terms):
    method, batch = fitted(lab, name)
    method._optimisers = method.optimisers()
    for k, optimiser in enumerate(method._optimisers):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 if k == player else 0.0
    parameters = dict(method.network_.named_parameters())
    groups = method._optimisers[player].param_groups
    own = {id(p) for group in groups for p in group["params"]}
    before = {k: p.detach().clone() for k, p in parameters.items()}
    values = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(40):
            logged = method.training_step(batch)
            values.append(sum(logged[k] for k in terms))
    moved = {k for k, p in parameters.items() if not torch.equal(p, before[k])}
    assert moved == {k for k, p in parameters.items() if id(p) in own}
    first, last = np.mean(values[:5]), np.mean(values[-5:])
    assert last < first - 0.03 * abs(first)
