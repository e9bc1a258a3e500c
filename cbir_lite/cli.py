"""The command line: `cbir ...`, thin over the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="The survey you can run: list its systems, train them, measure them, draw its figures.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()

Protocol = Annotated[
    str, typer.Option(help="Frozen protocol: which images are query, training, database.")
]
Backbone = Annotated[
    str, typer.Option(help="NETWORK-SIZE[-bf16], or a hand-crafted descriptor such as hog.")
]
Bits = Annotated[int, typer.Option(help="Code length (dimensions for real-valued systems).")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same codes.")]
Results = Annotated[Path, typer.Option(help="Folder of the measured records.")]
SMALL = "efficientnet_lite0-96"


def main() -> None:
    """Run the command line; errors of use are one clear line, not a traceback."""
    try:
        app(standalone_mode=False)
    except typer.Abort:
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        console.print("stopped; finished runs are kept, the same command goes on from here")
        raise SystemExit(130) from None
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> None:
    import click

    if isinstance(error, click.ClickException):
        error.show()
        raise SystemExit(error.exit_code) from None
    expected = (ValueError, KeyError, TypeError, OSError, RuntimeError, ArithmeticError)
    if not isinstance(error, expected):
        raise error
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    Console(stderr=True).print(f"[bold red]error:[/] {text}", highlight=False)
    raise SystemExit(2) from None


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of cards.")] = False,
    folder: Annotated[str, typer.Option(help="Only this folder, e.g. cnn or triplet.")] = "",
) -> None:
    """List the systems that are implemented, with what their cards say."""
    from cbir_lite.methods import registry

    cards = [c for c in registry.cards().values() if folder in ("", c.folder)]
    if as_json:
        typer.echo(json.dumps([c.to_dict() for c in cards], indent=1))
        return
    table = Table("id", "name", "year", "folder", "supervision", "fidelity", "in one sentence")
    for c in sorted(cards, key=lambda c: (c.folder, c.year, c.id)):
        table.add_row(
            c.id, c.name, str(c.year), c.folder, ", ".join(c.supervision), c.fidelity, c.summary
        )
    console.print(table)


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="cifar10, mnist, digits, folder:PATH ...")],
) -> None:
    """Fetch image sets into the cache and check them against their pinned hashes."""
    from cbir_lite import datasets

    for name in names:
        images = datasets.load(name)
        console.print(
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
    """Extract the features of an image set once; later commands read them from the cache."""
    from cbir_lite import datasets
    from cbir_lite import features as package

    kind: Any = "maps" if maps else "pooled"
    x = package.load(datasets.load(dataset), backbone, kind, runtime=runtime)
    console.print(f"{package.describe_name(backbone)}: {x.dtype} {x.shape}")


@app.command()
def train(
    method: Annotated[
        str, typer.Argument(help="A system's id, or id/variant: see `cbir methods`.")
    ],
    protocol: Protocol = "cifar10-59k",
    backbone: Backbone = SMALL,
    bits: Bits = 32,
    seed: Seed = 0,
    save: Annotated[Path | None, typer.Option(help="Write the trained system here.")] = None,
) -> None:
    """Train one system, measure it, and optionally keep it."""
    from cbir_lite.bench import Setting
    from cbir_lite.methods import registry

    system = registry.create(method, bits=bits, seed=seed)
    setting = Setting(protocol, backbone, progress=True)
    system.fit(setting.split(system), progress=True)
    evaluation = setting.evaluate(system)
    low, high = evaluation.interval()
    console.print(
        f"{method}, {bits} bits, {protocol}, {backbone}: mAP {evaluation.mean_ap():.4f} "
        f"(between {low:.4f} and {high:.4f} over all orders of the ties)"
    )
    if save is not None:
        system.save(save)
        console.print(f"written to {save}")


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="Name of a suite, or a YAML file.")] = "spine",
    output: Results = Path("book/results"),
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    methods: Annotated[str, typer.Option(help="Only these systems, separated by commas.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what is missing.")] = False,
) -> None:
    """Measure a suite into records; started again, it does what is missing."""
    from cbir_lite.bench import grid

    specs = grid.load_suite(suite)
    if methods:
        specs = [s for s in specs if s.method in methods.split(",")]
    failures = grid.run_suite(specs, output, workers=workers, dry_run=dry_run)
    for line in failures:
        console.print(f"[bold red]failed:[/] {line}", highlight=False)
    if failures:
        raise typer.Exit(1)


@app.command()
def table(
    number: Annotated[str, typer.Argument(help="1 to 4, or I to IV.")],
    results: Results = Path("book/results"),
    csv: Annotated[Path | None, typer.Option(help="Write it as CSV too.")] = None,
) -> None:
    """Print one of the survey's tables; II to IV with measured values beside the printed ones."""
    from cbir_lite import plots, survey
    from cbir_lite.bench import read_records

    frame = survey.table(number)
    if "bits" in frame.columns:
        frame = plots.reported_measured(number, read_records(results))
    if csv is not None:
        frame.to_csv(csv, index=False)
    shown = Table(*map(str, frame.columns))
    for row in frame.itertuples(index=False):
        shown.add_row(*("" if v != v or v is None else str(v) for v in row))
    console.print(shown)


@app.command()
def timeline(
    figure: Annotated[int, typer.Argument(help="Fig. 3, 5 or 8; 2 is the taxonomy.")] = 3,
    out: Annotated[Path, typer.Option(help="Picture to write (png, svg, pdf).")] = Path(
        "timeline.png"
    ),
) -> None:
    """Draw one of the survey's chronological figures from its data."""
    from cbir_lite import plots

    drawn = plots.taxonomy_tree() if figure == 2 else plots.timeline(figure)
    drawn.get_figure(root=True).savefig(out)
    console.print(f"Fig. {figure} written to {out}")


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
    backbone: Backbone = SMALL,
    bits: Bits = 32,
    k: Annotated[int, typer.Option(help="How many results.")] = 10,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("show.png"),
) -> None:
    """Draw what a system finds for one query: top k, right and wrong marked."""
    from cbir_lite.bench import Setting
    from cbir_lite.bench.gallery import picture
    from cbir_lite.methods import base, registry

    setting = Setting(protocol, backbone, progress=True)
    if model is not None:
        system = base.load(model)
    else:
        system = registry.create(method, bits=bits)
        system.fit(setting.split(system), progress=True)
    figure, description = picture(setting, system, query, k)
    figure.savefig(out)
    console.print(f"{description}\nwritten to {out}")


if __name__ == "__main__":
    main()
