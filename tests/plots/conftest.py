import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest

mpl.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before, "a figure changed the global settings"
    plt.close("all")


@pytest.fixture
def labels_of():
    """Texts of the axes with one of the given gids, and their boxes in pixels."""

    def find(ax, *gids):
        ax.figure.draw_without_rendering()
        texts = [t for t in ax.texts if t.get_gid() in gids]
        return [(t, mpl.text.Text.get_window_extent(t)) for t in texts]

    return find


@pytest.fixture
def overlapping():
    """Pairs of texts whose boxes share an area."""

    def find(found):
        return [
            (a.get_text(), b.get_text())
            for (a, x), (b, y) in itertools.combinations(found, 2)
            if min(x.x1, y.x1) - max(x.x0, y.x0) > 0.01 and min(x.y1, y.y1) - max(x.y0, y.y0) > 0.01
        ]

    return find


@pytest.fixture
def make_records():
    """Records from {(method, protocol, bits): values over seeds}, one value for all cut-offs."""

    def make(cells, fidelity="faithful", **columns):
        rows = []
        for (method, protocol, bits), values in cells.items():
            for seed, value in enumerate(values):
                maps = {f"map_{k}": value for k in (1000, 5000, 54000, "all")}
                names = {"method": method, "protocol": protocol, "bits": bits, "seed": seed}
                dataset = protocol.split("-")[0]
                rows.append(names | maps | {"dataset": dataset, "fidelity": fidelity} | columns)
        return pd.DataFrame(rows)

    return make
