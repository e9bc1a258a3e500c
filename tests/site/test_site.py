"""The site, built strictly from the executed chapters, and opened in a browser."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from book import build
from cbir_lite.methods import registry

pytestmark = pytest.mark.site


class Page(HTMLParser):
    """Links, anchors, images and foreign resources of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        if a.get("id"):
            self.ids.add(str(a["id"]))
        if tag == "a" and a.get("href"):
            self.links.append(str(a["href"]))
        if tag == "img":
            self.images.append(a)
        if tag in ("script", "img", "iframe", "source") and a.get("src"):
            self.resources.append(str(a["src"]))
        if tag == "link" and a.get("rel") in ("stylesheet", "preload", "icon") and a.get("href"):
            self.resources.append(str(a["href"]))


@pytest.fixture(scope="session")
def site() -> Path:
    build.run_chapters("smoke")
    return build.build_site("smoke").parent


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in site.rglob("*.html"):
        if "_static" in path.parts:
            continue
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        found[path] = page
    return found


def test_every_page_of_the_book_is_there(site: Path) -> None:
    wanted = [f"notebooks/{n.stem}.html" for n in build.notebooks()]
    wanted += [f"book/methods/system-{id_}.html" for id_ in registry.cards()]
    wanted += [
        f"book/{p}.html"
        for p in ("index", "glossary", "errata", "references", "status", "methods/index")
    ]
    missing = [w for w in wanted if not (site / w).exists()]
    assert missing == []


def test_links_and_anchors_resolve(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for href in page.links:
            parts = urlparse(href)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.suffix != ".html":
                if not target.exists():
                    broken.append((path.name, href))
                continue
            other = pages.get(target)
            anchor = unquote(parts.fragment)
            if other is None or (anchor and anchor not in other.ids):
                broken.append((path.name, href))
    assert broken == []


def test_every_image_has_words(pages: dict[Path, Page]) -> None:
    wordless = []
    for path, page in pages.items():
        for image in page.images:
            alt = (image.get("alt") or "").strip()
            if not alt or re.fullmatch(r"\S+\.(png|svg|jpe?g)", alt) or alt.startswith("../"):
                wordless.append((path.name, image.get("src"), alt))
    assert wordless == []


def test_nothing_is_loaded_from_another_host(pages: dict[Path, Page]) -> None:
    foreign = {r for page in pages.values() for r in page.resources if urlparse(r).netloc}
    assert foreign == set()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    assert binary, "no browser: install Chromium and its driver (Debian: chromium chromium-driver)"
    assert driver, "no chromedriver: install it (Debian: chromium-driver)"
    options = Options()
    options.binary_location = binary
    with tempfile.TemporaryDirectory() as profile:
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(flag)
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        yield chrome
        chrome.quit()


def _wait(condition: Any, seconds: float = 20) -> Any:
    import time

    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the page did not get ready"
        time.sleep(0.2)
    return value


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize(
    "page", ["book/index", "book/methods/system-dpsh", "notebooks/09_performance"]
)
def test_pages_fit_their_window(browser: Any, site: Path, page: str, width: int) -> None:
    browser.set_window_size(width, 1000)
    browser.get((site / f"{page}.html").as_uri())
    overflow = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    shots = build.BUILD / "screenshots"
    shots.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(shots / f"{page.replace('/', '-')}-{width}.png"))
    assert overflow <= 1


def test_formulas_are_drawn_by_the_site_itself(browser: Any, site: Path) -> None:
    browser.get((site / "book/methods/system-dpsh.html").as_uri())
    _wait(lambda: browser.find_elements("css selector", "mjx-container"))


def test_a_table_sorts_and_filters(browser: Any, site: Path) -> None:
    browser.set_window_size(1280, 1000)
    browser.get((site / "book/methods/index.html").as_uri())

    def rows() -> list[str]:
        found = browser.find_elements("css selector", "table.sortable tbody tr")
        return [r.text for r in found if r.is_displayed()]

    before = _wait(rows)
    assert len(before) >= len(registry.cards())
    head = browser.find_element("css selector", "table.sortable thead th")
    target = (head.find_elements("css selector", "button") or [head])[0]
    target.click()
    first = rows()
    target.click()
    second = rows()
    assert first != second
    assert sorted(first) == sorted(second)
    box = browser.find_element("css selector", "input[type=search], input.table-filter, input")
    boxes = [
        b
        for b in browser.find_elements("css selector", "input")
        if b.is_displayed() and "ilter" in (b.get_attribute("placeholder") or "")
    ]
    box = boxes[0]
    box.send_keys("HashNet")
    _wait(lambda: 1 <= len(rows()) < len(before))
