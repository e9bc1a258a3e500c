"""Build the book: data, features, chapters by papermill, site by jupyter-book.

``python -m book.build`` is what `make book` runs. Every step is skipped when nothing it depends on
has changed, so a second build takes seconds; a build that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cbir_lite._workers import end_with_parent

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
console = Console(soft_wrap=True)


class ChapterFailed(RuntimeError):
    """A chapter raised; the message names the chapter, the cell and the error."""


@dataclass
class Times:
    """Seconds each step took, for the closing table."""

    steps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step under ``name``."""
        console.print(f"[bold]{name}[/bold]")
        start = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = self.steps.get(name, 0.0) + time.monotonic() - start

    def show(self) -> None:
        """Print the table."""
        for name, seconds in self.steps.items():
            console.print(f"  {name:<28} {seconds:8.1f} s")


def digest(paths: list[Path], *texts: str) -> str:
    """Hash of the contents of files and folders, and of some texts."""
    total = hashlib.sha256("\0".join(texts).encode())
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" in file.parts or file.suffix in (".pyc", ".lock") or not file.exists():
                continue
            total.update(str(file.relative_to(ROOT)).encode())
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def stage_dir(scale: str) -> Path:
    """Where the executed book of a scale is put together."""
    return BUILD / f"stage-{scale}"


def notebooks() -> list[Path]:
    """The chapters, in order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


# -- data and features ---------------------------------------------------------------------------


def prepare(scale: str) -> None:
    """Fetch the data and extract the features that chapters of this scale share.

    What one chapter waits for, another would wait for too: sets and features are made here once.
    """
    from cbir_lite.bench import at_scale, open_setting

    setting = at_scale(scale)
    setting.features("pooled")
    open_setting("emoji-tags", setting.backbone, progress=True).features("pooled")


# -- chapters ------------------------------------------------------------------------------------


def run_chapter(source: Path, scale: str) -> float:
    """Execute one chapter unless its stamp says that nothing changed; returns the seconds.

    Raises :class:`ChapterFailed`; a failed chapter leaves no stamp and no output behind.
    """
    import nbformat
    import papermill

    target = stage_dir(scale) / "notebooks" / source.name
    stamp = target.with_suffix(".stamp")
    wanted = digest([source, ROOT / "cbir_lite", ROOT / "book" / "results"], scale)
    if target.exists() and stamp.exists() and stamp.read_text().split()[0] == wanted:
        return 0.0
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    running = target.with_suffix(".running.ipynb")
    start = time.monotonic()
    try:
        papermill.execute_notebook(
            str(source),
            str(running),
            parameters={"SCALE": scale},
            cwd=str(ROOT / "notebooks"),
            progress_bar=False,
            kernel_name="python3",
            log_output=False,
        )
    except papermill.PapermillExecutionError as error:
        running.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise ChapterFailed(
            f"{source.relative_to(ROOT)}, cell {error.cell_index} raised {error.ename}: "
            f"{error.evalue}\n{error.source}"
        ) from error
    seconds = time.monotonic() - start
    notebook = nbformat.read(running, as_version=4)
    # The injected cell stays for the reader to see, but folded.
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
    nbformat.write(notebook, running)
    os.replace(running, target)
    stamp.write_text(f"{wanted} {seconds:.1f}")
    return seconds


def run_chapters(scale: str, workers: int = 2) -> dict[str, float]:
    """Execute all chapters, ``workers`` at a time; every failure is reported before raising."""
    # One thread a chapter: the chapters themselves fill the cores. Numba's setting would also reach
    # PyTorch where both use one OpenMP, so the two must agree.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    seconds: dict[str, float] = {}
    failed: list[str] = []
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    # Processes, not threads: papermill changes the working directory of the whole process.
    context = multiprocessing.get_context("spawn")
    with (
        bar,
        ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool,
    ):
        task = bar.add_task("chapters", total=len(notebooks()))
        jobs = {pool.submit(run_chapter, n, scale): n for n in notebooks()}
        for job in as_completed(jobs):
            try:
                seconds[jobs[job].stem] = job.result()
                bar.console.print(f"  {jobs[job].stem}: {seconds[jobs[job].stem]:.1f} s")
            except ChapterFailed as error:
                failed.append(str(error))
            bar.advance(task)
    if failed:
        raise ChapterFailed("\n\n".join(failed))
    return seconds


# -- site ----------------------------------------------------------------------------------------


def assemble(scale: str) -> Path:
    """Put pages, executed chapters and configuration into the stage; returns it."""
    stage = stage_dir(scale)
    stage.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(stage / "book", ignore_errors=True)
    shutil.copytree(
        ROOT / "book",
        stage / "book",
        ignore=shutil.ignore_patterns("__pycache__", "methods", "*.lock"),
    )
    shutil.copy(ROOT / "_toc.yml", stage)
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["execute"]["execute_notebooks"] = "off"
    (stage / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    (stage / "book" / "status.json").write_text(json.dumps(status(scale), indent=1))
    return stage


def status(scale: str) -> dict[str, object]:
    """What the status page shows: seconds of each chapter, versions, machine."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from cbir_lite.bench import SCALES

    packages = (
        "cbir-lite",
        "numpy",
        "torch",
        "torchvision",
        "openvino",
        "numba",
        "matplotlib",
        "seaborn",
        "papermill",
        "jupyter-book",
    )
    chapters = {}
    for notebook in notebooks():
        stamp = stage_dir(scale) / "notebooks" / f"{notebook.stem}.stamp"
        chapters[notebook.stem] = float(stamp.read_text().split()[1]) if stamp.exists() else None
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(PackageNotFoundError):  # OpenVINO is optional
            versions[package] = version(package)
    return {
        "scale": scale,
        "protocol": SCALES[scale].protocol,
        "backbone": SCALES[scale].backbone,
        "seeds": SCALES[scale].seeds,
        "chapters": chapters,
        "versions": versions,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def build_site(scale: str) -> Path:
    """Build the site strictly from scratch, unless nothing changed; returns the landing page."""
    stage = assemble(scale)
    out = BUILD / f"site-{scale}"
    landing = out / "_build" / "html" / "index.html"
    stamp = out / "site.stamp"
    wanted = digest(
        [
            stage / "book",
            stage / "notebooks",
            stage / "_toc.yml",
            stage / "_config.yml",
            ROOT / "cbir_lite",
            ROOT / "book",
        ],
    )
    if landing.exists() and stamp.exists() and stamp.read_text() == wanted:
        return landing
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log = out / "build.log"
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(stage),
        "--path-output",
        str(out),
        "-n",
        "-W",
        "--keep-going",
        "--all",
    ]
    with log.open("w") as stream, console.status("jupyter-book"):
        result = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    if result.returncode or not landing.exists():
        text = log.read_text()
        wrong = [x for x in text.splitlines() if "WARNING" in x or "ERROR" in x]
        console.print("\n".join(wrong[-40:] or text.splitlines()[-40:]), markup=False)
        raise SystemExit(f"the site build failed; the whole log is {log}")
    stamp.write_text(wanted)
    return landing


def main(argv: list[str] | None = None) -> None:
    """Command line of `make book`."""
    parser = argparse.ArgumentParser(prog="python -m book.build", description=__doc__)
    parser.add_argument("--scale", default="book", choices=("smoke", "book", "full"))
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(argv)
    times = Times()
    try:
        with times.step("data and features"):
            prepare(options.scale)
        with times.step("chapters"):
            run_chapters(options.scale, options.workers)
        with times.step("site"):
            landing = build_site(options.scale)
    except ChapterFailed as error:
        console.print(str(error), markup=False)
        raise SystemExit("a chapter failed: see above. The other chapters are kept.") from error
    except KeyboardInterrupt:
        raise SystemExit("stopped; run the command again to go on from here") from None
    console.print(f"\n[bold]The book:[/bold] {landing}")
    times.show()


if __name__ == "__main__":
    main()
