"""The command line: `cbir ...`, thin over the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

if TYPE_CHECKING:
    import pandas as pd

SMALL, PUBLISHED = "efficientnet_lite0-96", "efficientnet_lite0-224"
REFERENCES = ("random_codes", "lsh", "pca_sign", "itq", "neural_codes/full")
"""Baselines and the real-valued reference that stand in every table."""
WIDE = 160
"""Columns of a table that is not written to a terminal."""


class _Group(TyperGroup):
    """Errors of use are one clear line and exit code 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            typer.echo("stopped; finished runs are kept, the same command goes on from here")
            raise typer.Exit(130) from None
        except (ValueError, LookupError, OSError, RuntimeError, ArithmeticError) as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
        except ImportError as error:
            # A missing extra; its message says which to install.
            text = error
        typer.echo(typer.style("error: ", fg="red", bold=True) + str(text), err=True)
        raise typer.Exit(2)


app = typer.Typer(
    cls=_Group,
    help="The survey you can run: list its systems, train them, measure them, draw its figures.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Protocol = Annotated[
    str, typer.Option(help="Frozen protocol: which images are query, training, database.")
]
Backbone = Annotated[
    str, typer.Option(help="NETWORK-SIZE(-bf16), or a hand-crafted descriptor such as hog.")
]
ModelBackbone = Annotated[
    str | None,
    typer.Option(
        help="NETWORK-SIZE(-bf16), or a hand-crafted descriptor such as hog. Default: that of "
        f"the model, else {SMALL}."
    ),
]
Bits = Annotated[int, typer.Option(help="Code length (dimensions for real-valued systems).")]


def _seed(seed: int) -> int:
    """The seed; ``ValueError`` unless every generator of numbers takes it."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: use a whole number in 0..{2**32 - 1}")
    return seed


Seed = Annotated[int, typer.Option(help="The same seed gives the same codes.", callback=_seed)]
Results = Annotated[Path, typer.Option(help="Folder of the measured records.")]


def main() -> None:
    """Run the command line."""
    app()


def _show(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table, highlight=False)


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of cards.")] = False,
    folder: Annotated[str, typer.Option(help="Only this folder, e.g. cnn or triplet.")] = "",
) -> None:
    """List the systems that are implemented, with what their cards say.

    Example: cbir methods --folder triplet
    """
    from cbir_lite.methods import registry

    cards = [c for c in registry.cards().values() if folder in ("", c.folder)]
    if not cards:
        known = ", ".join(sorted({c.folder for c in registry.cards().values()}))
        raise ValueError(f"no systems in folder {folder!r}; there are {known}")
    variants = {c.id: list(registry.get(c.id).variants) for c in cards}
    if as_json:
        listed = [c.to_dict() | {"variants": variants[c.id]} for c in cards]
        typer.echo(json.dumps(listed, indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("folder", "id", "year"):
        table.add_column(name, no_wrap=True)
    for name in ("labels", "fidelity", "in one sentence"):
        table.add_column(name)
    above = ""
    for c in sorted(cards, key=lambda c: (c.folder, c.year, c.id)):
        shown = "" if c.folder == above else c.folder
        above = c.folder
        table.add_row(shown, c.id, str(c.year), ", ".join(c.supervision), c.fidelity, c.summary)
    _show(table)
    if named := [f"{id_}/{v}" for id_, own in variants.items() for v in own]:
        typer.echo(f"Variants: {', '.join(named)}")


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="cifar10, mnist, digits, folder:PATH ...")],
) -> None:
    """Fetch image sets into the cache and check them against their pinned hashes.

    Example: cbir fetch digits
    """
    from cbir_lite import datasets

    for name in names:
        images = datasets.load(name)
        typer.echo(
            f"{name}: {len(images)} images, {len(images.class_names)} classes, "
            f"licence: {images.licence}"
        )


@app.command()
def features(
    dataset: Annotated[str, typer.Argument(help="cifar10, mnist, digits, folder:PATH ...")],
    backbone: Backbone = SMALL,
    maps: Annotated[bool, typer.Option("--maps", help="Spatial maps too (large).")] = False,
    runtime: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
) -> None:
    """Extract the features of an image set once; later commands read them from the cache.

    Example: cbir features digits --backbone hog
    """
    from cbir_lite import datasets
    from cbir_lite import features as package

    meaning = package.describe_name(backbone)
    kind: Any = "maps" if maps else "pooled"
    x = package.load(datasets.load(dataset), backbone, kind, runtime=runtime)
    typer.echo(f"{meaning}: {x.dtype} {x.shape}")


@app.command()
def train(
    method: Annotated[
        str, typer.Argument(help="A system's id, or id/variant: see `cbir methods`.")
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Frozen protocol: which images are query, training, database. Default: where the "
            "system is at home, cifar10-59k or a task of the emoji set."
        ),
    ] = None,
    backbone: Backbone = SMALL,
    bits: Bits = 32,
    seed: Seed = 0,
    save: Annotated[Path | None, typer.Option(help="Write the trained system here.")] = None,
) -> None:
    """Train one system, measure it, and optionally keep it.

    Example: cbir train itq --protocol digits --backbone pixels
    """
    if save is not None:
        _writable(save)
    if protocol is None:
        from cbir_lite.bench import home_protocol
        from cbir_lite.methods import registry

        protocol = home_protocol(registry.get(method))
    setting, system = _fitted(method, protocol, backbone, bits, seed)
    evaluation = setting.evaluate(system)
    low, high = evaluation.interval()
    typer.echo(
        f"{method}, {bits} bits, {protocol}, {backbone}: mAP {evaluation.mean_ap():.4f} "
        f"(between {low:.4f} and {high:.4f} over all orders of the ties)"
    )
    if save is not None:
        system.save(save, backbone)
        typer.echo(f"written to {save}")


def _writable(path: Path, *, picture: bool = False) -> None:
    """Make the folder of a file to be written; ``ValueError``, before any work, if it cannot be.

    A ``picture`` has to have an ending that matplotlib writes.
    """
    _writable_folder(path.parent, path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: give a file in a folder that is writable")
    if picture:
        from matplotlib.backend_bases import FigureCanvasBase

        endings = sorted(FigureCanvasBase.get_supported_filetypes())
        if path.suffix.removeprefix(".").lower() not in endings:
            raise ValueError(f"cannot write {path}: its ending is none of {', '.join(endings)}")


def _writable_folder(folder: Path, wanted: Path) -> None:
    """Make a folder and try to write there; ``ValueError`` that names ``wanted`` if it fails."""
    from cbir_lite._cache import writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {wanted}: {error.strerror}: {error.filename}") from error
    if not writable(folder):
        raise ValueError(f"cannot write {wanted}: choose a folder that is writable and has room")


def _setting(protocol: str, backbone: str) -> Any:
    from cbir_lite import features as package
    from cbir_lite.bench import open_setting

    # Before the images, which may have to be fetched.
    package.describe_name(backbone)
    return open_setting(protocol, backbone, progress=True)


def _fitted(method: str, protocol: str, backbone: str, bits: int, seed: int) -> tuple[Any, Any]:
    from cbir_lite._workers import quick_training
    from cbir_lite.methods import registry

    quick_training()  # as a grid's workers do, so that one run here gives the number on record
    system = registry.create(method, bits=bits, seed=seed)
    setting = _setting(protocol, backbone)
    return setting, system.fit(setting.split(system), progress=True)


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="Name of a suite, or a YAML file.")] = "survey",
    output: Results = Path("book/results"),
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    methods: Annotated[str, typer.Option(help="Only these systems, separated by commas.")] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only count what is missing. Protocols of the emoji set are drawn from it: on "
            "first use this may fetch and prepare it.",
        ),
    ] = False,
) -> None:
    """Measure a suite into records; started again, it does what is missing.

    Example: cbir bench --suite survey --methods itq,dpsh --dry-run
    """
    from cbir_lite.bench import grid

    specs = grid.load_suite(suite)
    if methods:
        wanted, known = set(methods.split(",")), sorted({s.method for s in specs})
        if unknown := ", ".join(sorted(wanted.difference(known))):
            raise ValueError(f"suite {suite} has no system {unknown}; it has {', '.join(known)}")
        specs = [s for s in specs if s.method in wanted]
    if not dry_run:
        _writable_folder(output, output)
    failures = grid.run_suite(specs, output, workers=workers, dry_run=dry_run)
    for line in failures:
        typer.echo(typer.style("failed: ", fg="red", bold=True) + line, err=True)
    if failures:
        raise typer.Exit(1)


@app.command()
def table(
    number: Annotated[str, typer.Argument(help="1 to 4, or I to IV.")],
    results: Results = Path("book/results"),
    backbone: Annotated[str, typer.Option(help="Features of the measured values.")] = PUBLISHED,
    csv: Annotated[Path | None, typer.Option(help="Write it as CSV too, every column.")] = None,
) -> None:
    """Print one of the survey's tables; II to IV with measured values beside the printed ones.

    Example: cbir table 3 --csv table3.csv
    """
    from cbir_lite import plots, survey

    if csv is not None:
        _writable(csv)
    frame = survey.table(int(number) if number.isdigit() else number.upper())
    printed_only = "bits" not in frame.columns
    if not printed_only:
        frame = plots.reported_measured(frame, _records(results, backbone), also=REFERENCES)
    if csv is not None:
        frame.to_csv(csv, index=False)
    if printed_only:
        _show(_datasets(frame))
        return
    for (name, protocol, dataset), block in frame.groupby(
        ["table", "protocol", "dataset"], sort=False
    ):
        title = f"Table {name}, {protocol}, {dataset}: mAP in percent, measured with {backbone}"
        _show(_block(title, block))


def _records(folder: Path, backbone: str) -> pd.DataFrame:
    """The records of one backbone with default settings, by the code as it is now."""
    from cbir_lite.bench.records import read_records, usual
    from cbir_lite.bench.run import mark_stale

    records = read_records(folder)
    shown = usual(records[records["backbone"] == backbone])
    marked = mark_stale(shown)
    current = marked[~marked["stale"]]
    if len(current) < len(shown):
        typer.echo(
            f"{len(shown) - len(current)} records of earlier code are left out; "
            "measure again with `cbir bench`",
            err=True,
        )
    if current.empty:
        typer.echo(f"no records of {backbone} in {folder}: nothing is measured", err=True)
    return current


def _datasets(frame: pd.DataFrame) -> Table:
    out = Table(box=box.SIMPLE_HEAD, title="Table I: data sets, as printed")
    heads = {
        "dataset": "data set",
        "year_printed": "year",
        "classes_printed": "classes",
        "training_printed": "training",
        "test_printed": "test",
        "image_type_printed": "images",
        "errata": "errata",
    }
    for column, head in heads.items():
        numeric = column.removesuffix("_printed") in ("year", "classes", "training", "test")
        out.add_column(head, justify="right" if numeric else "left")
    for row in frame[list(heads)].itertuples(index=False):
        out.add_row(*map(str, row))
    return out


def _block(title: str, frame: pd.DataFrame) -> Table:
    out = Table(box=box.SIMPLE_HEAD, title=title)
    out.add_column("method", no_wrap=True)
    for head in ("bits", "reported", "measured", "ratio"):
        out.add_column(head, justify="right")
    out.add_column("fidelity")
    out.add_column("errata")
    above = None
    shown = {"reported": "{:.2f}", "ratio": "{:.2f}", "fidelity": "{}", "bits": "{}"}
    for row in frame.to_dict("records"):
        known = {k: form.format(row[k]) if row[k] == row[k] else "" for k, form in shown.items()}
        measured = row["status"]
        if row["status"] == "measured":
            measured = f"{row['measured']:.1f}"
            measured += f" ± {row['spread']:.1f}" if row["seeds"] > 1 else " (1 seed)"
        # Some labels are printed twice in a block, with the values of two sources.
        source = (row["method_label"], row["result_source"])
        label = "" if str(source) == above else escape(row["method_label"])
        above = str(source)
        out.add_row(
            label, known["bits"], known["reported"], measured, known["ratio"], known["fidelity"],
            row["errata"],
        )  # fmt: skip
    return out


@app.command()
def timeline(
    figure: Annotated[int, typer.Argument(help="Fig. 3, 5 or 8; 2 is the taxonomy.")] = 3,
    out: Annotated[Path, typer.Option(help="Picture to write (png, svg, pdf).")] = Path(
        "timeline.png"
    ),
) -> None:
    """Draw one of the survey's chronological figures from its data.

    Example: cbir timeline 5 --out timeline.svg
    """
    from cbir_lite import plots

    _writable(out, picture=True)
    drawn: Any = plots.taxonomy_tree() if figure == 2 else plots.timeline(figure)
    drawn.figure.savefig(out)
    typer.echo(f"Fig. {figure} written to {out}")


@app.command()
def show(
    query: Annotated[
        str, typer.Argument(help="Position of a query in the protocol, or an image file.")
    ],
    method: Annotated[str, typer.Option(help="A system's id: it is trained first.")] = "itq",
    model: Annotated[
        Path | None, typer.Option(help="A system saved by `cbir train --save`.")
    ] = None,
    protocol: Protocol = "cifar10-59k",
    backbone: ModelBackbone = None,
    bits: Bits = 32,
    k: Annotated[int, typer.Option("-k", "--k", help="How many results.")] = 10,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("show.png"),
) -> None:
    """Draw what a system finds for one query: top k, right and wrong marked.

    Example: cbir show 3 --protocol digits --backbone pixels --bits 16
    """
    from cbir_lite.bench.gallery import picture
    from cbir_lite.methods import base

    _writable(out, picture=True)
    if model is not None:
        system: Any = base.load(model)
        setting = _setting(protocol, _agreed(backbone, base.backbone_of(model), model))
    else:
        setting, system = _fitted(method, protocol, backbone or SMALL, bits, 0)
    figure, description = picture(setting, system, query, k)
    figure.savefig(out)
    typer.echo(f"{description}\nwritten to {out}")


@app.command()
def index(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Its images, nested or not; no labels needed.")
    ],
    method: Annotated[
        str, typer.Option(help="A system that learns without labels: it is fitted on the images.")
    ] = "itq",
    model: Annotated[
        Path | None, typer.Option(help="A system saved by `cbir train --save` instead.")
    ] = None,
    backbone: ModelBackbone = None,
    bits: Bits = 64,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: DIR/.cbir-index.")
    ] = None,
) -> None:
    """Make an index of a folder of images, for `cbir search`; run again, it takes in what is new.

    Example: cbir index photos
    """
    from cbir_lite.bench import index as package
    from cbir_lite.methods import base, registry

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if model is None:
        backbone = backbone or SMALL
        system: Any = registry.create(method, bits=bits, seed=seed)
    else:
        system = base.load(model)
        backbone = _agreed(backbone, base.backbone_of(model), model)
    # Before the images are read, which may take long.
    package.check_system(system, backbone, fitted=model is not None)
    path = out or folder / package.NAME
    earlier = package.earlier_index(path)
    listing = package.list_folder(folder, earlier, progress=True)
    for line in listing.skipped:
        typer.echo(typer.style("skipped: ", fg="yellow", bold=True) + _plain(line), err=True)
    made = package.build_index(
        listing, system, backbone, earlier, fitted=model is not None, progress=True
    )
    made.save(path)
    skipped = f", {len(listing.skipped)} skipped that cannot be read" if listing.skipped else ""
    text = f"{len(made)} images of {folder}{skipped}: {made.described}\nwritten to {path}"
    typer.echo(_plain(text))


def _agreed(backbone: str | None, trained: str | None, model: Path) -> str:
    """The features of a saved system; ``ValueError`` if others are asked for."""
    if backbone and trained and backbone != trained:
        raise ValueError(
            f"{model} was trained on {trained}: leave out --backbone {backbone}, or train it on "
            f"that with `cbir train --backbone {backbone} --save FILE`"
        )
    return backbone or trained or SMALL


@app.command()
def search(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    index: Annotated[
        Path | None,
        typer.Option(
            help="An index, or the folder it is of. Default: that of the current folder, else of "
            "the image's folder or one above it."
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="How many results. Default: 10, or all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of queries.")] = False,
) -> None:
    """Find the images of an indexed folder that are nearest to image files.

    Example: cbir search photos/cat.png -k 5
    """
    from cbir_lite.bench import index as package

    if out is not None:
        _writable(out, picture=True)
    path = package.find_index(index, images[0])
    found = package.load_index(path)
    k = min(10, len(found)) if k is None else k
    rows, distances = found.search(images, k)
    gone = set(found.gone())
    queries: list[dict[str, Any]] = [
        {
            "query": str(image),
            "index": str(path),
            "results": [
                {
                    "rank": rank,
                    "distance": far.item(),
                    "path": str(found.listing.path(row)),
                    "gone": row in gone,
                }
                for rank, (row, far) in enumerate(zip(found_rows.tolist(), fars, strict=True), 1)
            ],
        }
        for image, found_rows, fars in zip(images, rows, distances, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(queries, indent=1))
    else:
        for query in queries:
            title = f"{query['query']}: top {k} of {len(found)} in {found.listing.root}"
            typer.echo(f"{_plain(title)} by {found.described}")
            _show(_results(query["results"]))
    if gone:
        typer.echo(
            f"{len(gone)} of {len(found)} images are gone since they were indexed: run "
            f"`cbir index {_plain(str(found.listing.root))}` again",
            err=True,
        )
    if out is not None:
        package.picture(found, images, rows, distances).savefig(out)
        typer.echo(f"written to {out}", err=as_json)


def _results(results: list[dict[str, Any]]) -> Table:
    out = Table(box=box.SIMPLE_HEAD)
    out.add_column("rank", justify="right")
    out.add_column("distance", justify="right")
    out.add_column("path", overflow="fold")
    for r in results:
        path = escape(_plain(r["path"])) + (" (gone)" if r["gone"] else "")
        out.add_row(str(r["rank"]), f"{r['distance']:.4g}", path)
    return out


def _plain(name: str) -> str:
    """A text with names of files, without the bytes of these that cannot be printed."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


if __name__ == "__main__":
    main()
