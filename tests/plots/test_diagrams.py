"""Diagrams: every stage is a box with its real shape, arrows join them in order, all is legible."""

import re
from collections import Counter

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon

from cbir_lite import plots
from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.stages import Stage, stages
from cbir_lite.plots.diagrams import network_diagram, shape_text
from cbir_lite.plots.style import new_axes

SYSTEMS = {
    "dpsh": {},
    "dtsh": {"copies": ("anchor", "positive", "negative")},
    "dsh_liu2016": {"copies": ("image i", "image j")},
    "bgan": {},
    "dsah": {},
    "dph_progressive": {},
    "pgdh": {},
}


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    y = np.eye(3, dtype=np.uint8)[np.arange(48) % 3]
    made = {}
    for id_ in SYSTEMS:
        cls = registry.get(id_)
        shape = (48, 3, 3, 40) if cls.reads == "maps" else (48, 40)
        data = Split(rng.normal(size=shape).astype(np.float32), y, cls.supervision)
        method = registry.create(id_, bits=12, epochs=1, batch_size=32, width=16).fit(data)
        made[id_] = stages(method, data)
    return made


def boxes_of(ax):
    """Boxes by their place, each as (left, top, right, bottom) in inches from the upper left."""
    found = []
    for patch in ax.patches:
        if isinstance(patch, FancyBboxPatch) and patch.get_gid() == "box":
            x, y = patch.get_x(), patch.get_y()
            found.append((x, y, x + patch.get_width(), y + patch.get_height()))
    return found


def text_in(ax, box):
    """Lines of text inside of a box from above, by gid."""
    inside = [
        t
        for t in ax.texts
        if box[0] < t.get_position()[0] < box[2] and box[1] < t.get_position()[1] < box[3]
    ]
    inside.sort(key=lambda t: t.get_position()[1])
    return {
        gid: [t.get_text() for t in inside if t.get_gid() == gid]
        for gid in ("name", "layers", "shape")
    }


def glued(lines):
    return re.sub(r"[ \u00a0]", "", "".join(lines))


def curves(ax):
    return [p for p in ax.patches if isinstance(p, PathPatch) and p.get_gid() in ("arrow", "lane")]


@pytest.mark.parametrize("dpi", [100, 200])
@pytest.mark.parametrize("id_", SYSTEMS)
def test_no_text_overlaps_or_leaves_its_box_or_the_page(id_, dpi, records, labels_of, overlapping):
    ax = network_diagram(records[id_], **SYSTEMS[id_])
    ax.figure.set_dpi(dpi)
    found = labels_of(ax, "name", "layers", "shape", "legend")
    assert overlapping(found) == []
    assert min(t.get_fontsize() for t in ax.texts) >= 7
    page = ax.figure.bbox
    patches = [p for p in ax.patches if p.get_gid() == "box"]
    areas = [p.get_window_extent() for p in patches]
    for text, box in found:
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text
        if text.get_gid() != "legend":
            assert any(
                a.x0 <= box.x0 and box.x1 <= a.x1 and a.y0 <= box.y0 and box.y1 <= a.y1
                for a in areas
            ), text
    assert ax.figure.get_figwidth() == pytest.approx(plots.PAGE_WIDTH)
    assert ax.figure.get_figheight() < 5


@pytest.mark.parametrize("id_", SYSTEMS)
def test_boxes_hold_the_names_layers_and_real_shapes(id_, records):
    ax = network_diagram(records[id_], **SYSTEMS[id_])
    roles = SYSTEMS[id_].get("copies", ("",))
    printed = Counter()
    for box in boxes_of(ax):
        lines = text_in(ax, box)
        printed[glued(lines["name"]), glued(lines["layers"]), tuple(lines["shape"])] += 1
    expected = Counter()
    for stage in records[id_]:
        shapes = tuple(str(s).replace("(32", "(B").replace(",)", ")") for s in stage.shapes)
        for role in roles if stage.kind != "loss" else ("",):
            name = stage.name + (f": {role}" if role and stage.kind == "input" else "")
            expected[glued(name), glued(",".join(stage.layers)), shapes] += 1
    assert printed == expected


@pytest.mark.parametrize("id_", SYSTEMS)
def test_boxes_do_not_touch_and_stand_right_of_what_feeds_them(id_, records):
    ax = network_diagram(records[id_], **SYSTEMS[id_])
    boxes = boxes_of(ax)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    if not SYSTEMS[id_]:
        for stage, box in zip(records[id_], boxes, strict=True):
            for source, _ in stage.sources:
                assert boxes[source][2] < box[0]
    last = [box[0] for box, s in zip(boxes[::-1], records[id_][::-1], strict=False)
            if s.kind == "loss"]  # fmt: skip
    assert len({round(x, 6) for x in last}) == 1
    assert last[0] == max(box[0] for box in boxes)


@pytest.mark.parametrize("id_", SYSTEMS)
def test_no_arrow_passes_through_a_box(id_, records):
    ax = network_diagram(records[id_], **SYSTEMS[id_])
    for curve in curves(ax):
        points = curve.get_path().interpolated(1).to_polygons(closed_only=False)
        points = np.concatenate([curve.get_path().cleaned(curves=False).vertices, *points])
        for left, top, right, bottom in boxes_of(ax):
            inside = (
                (points[:, 0] > left + 1e-6)
                & (points[:, 0] < right - 1e-6)
                & (points[:, 1] > top + 1e-6)
                & (points[:, 1] < bottom - 1e-6)
            )
            assert not inside.any()


def follow(ax):
    """Pairs (from, to) of boxes that arrows join, and whether they are drawn through."""
    boxes = boxes_of(ax)
    ends = []
    for curve in curves(ax):
        vertices = curve.get_path().vertices
        ends.append((*vertices[0], *vertices[-1], curve.get_linestyle() in ("-", "solid")))
    pairs = set()
    for k, (left, top, _, bottom) in enumerate(boxes):
        for *start, x, y, solid in ends:
            if not (left - 0.08 <= x <= left and top <= y <= bottom):
                continue
            at = start
            while True:
                hit = [
                    i for i, b in enumerate(boxes)
                    if abs(b[2] - at[0]) < 1e-6 and b[1] < at[1] < b[3]
                ]  # fmt: skip
                if hit:
                    break
                ((px, py),) = {e[:2] for e in ends if np.allclose(e[2:4], at) and e[4] == solid}
                at = [px, py]
            pairs.add((hit[0], k, solid))
    return pairs


@pytest.mark.parametrize("id_", [k for k, v in SYSTEMS.items() if not v])
def test_arrows_lead_from_source_to_reader(id_, records):
    ax = network_diagram(records[id_])
    wanted = {(a, b, flows) for b, s in enumerate(records[id_]) for a, flows in s.sources}
    assert follow(ax) == wanted
    heads = [p for p in ax.patches if isinstance(p, Polygon)]
    assert len(heads) == len(wanted)


def test_copies_are_side_by_side_and_all_feed_the_loss(records):
    ax = network_diagram(records["dtsh"], **SYSTEMS["dtsh"])
    boxes = boxes_of(ax)
    names = [glued(text_in(ax, b)["name"]) for b in boxes]
    towers = [b for b, n in zip(boxes, names, strict=True) if n == "hash_layer"]
    assert len(towers) == 3
    assert len({round(b[0], 6) for b in towers}) == 1
    pairs = {(names[a], names[b], a) for a, b, _ in follow(ax)}
    assert sum(b == "likelihood" for _, b, _ in pairs) == 3
    same = [p for p in ax.patches if p.get_gid() == "same"]
    assert len(same) == 4  # two parts, three copies
    legend = [t.get_text() for t in ax.texts if t.get_gid() == "legend"]
    assert "same weights" in legend


def test_the_legend_explains_what_is_there_and_no_more():
    plain = [
        Stage("x", "input", shapes=((4, 2),)),
        Stage("f", shapes=((4, 1),), sources=((0, True),)),
    ]
    end = Stage("error", "loss", sources=((1, False),))
    for record, words in (
        (plain, ["input", "part of the network", "data, and a gradient back"]),
        ([*plain, end], ["input", "part of the network", "loss term",
                         "data, and a gradient back", "data only"]),
    ):  # fmt: skip
        ax = network_diagram(record)
        assert [t.get_text() for t in ax.texts if t.get_gid() == "legend"] == words


def test_many_layers_are_counted_and_long_names_broken_between_words():
    layers = ("Conv2d", "BatchNorm2d", "ReLU") * 5
    name = "encoder.convolutional_feature_extractor"
    record = [Stage("x", "input", shapes=((4, 2),))] + [
        Stage(name, layers=layers, shapes=((4, 3),), sources=((k, True),)) for k in range(5)
    ]
    ax = network_diagram(record)
    lines = text_in(ax, boxes_of(ax)[1])
    assert glued(lines["layers"]) == "5Conv2d,5BatchNorm2d,5ReLU"
    assert "".join(lines["name"]) == name
    assert lines["name"] == ["encoder.", "convolutional_", "feature_", "extractor"]


def test_given_axes_must_be_large_enough():
    record = [Stage("x", "input", shapes=((4, 2),)), Stage("f", sources=((0, True),))]
    ax = new_axes(2.0, 5.0, layout=None)
    assert network_diagram(record, ax=ax) is ax
    with pytest.raises(ValueError, match=r"0.20 in high; this diagram needs 0\.\d\d in"):
        network_diagram(record, ax=new_axes(0.2, 5.0, layout=None))
    long = [Stage("x", "input"), *(Stage("f", sources=((k, True),)) for k in range(9))]
    with pytest.raises(ValueError, match=r"10 boxes in a row do not fit into 7\.50 in.*11\.18 in"):
        network_diagram(long)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "nothing to draw"),
        ([Stage("x", "layer")], "'x' is of kind 'layer'"),
        ([Stage("x", "input"), Stage("f", sources=((1, True),))], "'f': 1 is no stage"),
        ([Stage("e", "loss"), Stage("f", sources=((0, True),))], "'f': 0 is no stage"),
    ],
)
def test_records_that_cannot_be_drawn_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        network_diagram(record)


def test_shapes_in_words():
    assert shape_text((8, 4, 2), 8) == "(B, 4, 2)"
    assert shape_text((8,), 8) == "(B)"
    assert shape_text((4, 8), 8) == "(4, 8)"
    assert shape_text(()) == "()"
