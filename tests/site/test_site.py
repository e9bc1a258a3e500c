"""The site, built strictly from the executed chapters, and opened in a browser."""

from __future__ import annotations

import base64
import csv
import io
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from book import build
from book._ext.cbir_pages import measured
from cbir_lite import survey
from cbir_lite.methods import registry
from cbir_lite.plots import reported_measured, to_html
from tests.site.browser import BrowserMissing, chromium, find, requested, resize

pytestmark = pytest.mark.site

PROSE = ("index", "glossary", "errata", "references", "status", "methods/index")
SHOWN = [f"book/{p}" for p in PROSE]
SHOWN += ["book/methods/system-dpsh", "book/methods/system-greedyhash"]
SHOWN += [f"notebooks/{n.stem}" for n in build.notebooks()]
SHOTS = build.BUILD / "screenshots"
FOREIGN_CSS = re.compile(r"""(?:@import\s+|url\(\s*)["']?(?:https?:)?//[^"')\s]+""")
FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif)$|^\.\./|^_images", re.IGNORECASE)


class Page(HTMLParser):
    """Links, anchors, images and whatever a browser would load of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.resources: list[str] = []
        self.title = ""
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        self._in_title = tag == "title" and not self.title
        if a.get("id"):
            self.ids.add(str(a["id"]))
        if tag == "a" and a.get("href"):
            self.links.append(str(a["href"]))
        if tag == "img":
            self.images.append(a)
        if a.get("src"):
            self.resources.append(str(a["src"]))
        if tag == "link" and a.get("href") and a.get("rel") not in ("canonical", "index", "search"):
            self.resources.append(str(a["href"]))
        if tag == "object" and a.get("data"):
            self.resources.append(str(a["data"]))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


@pytest.fixture(scope="session")
def site() -> Path:
    build.run_chapters("smoke")
    return build.build_site("smoke").parent


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in site.rglob("*.html"):
        if "_static" in path.relative_to(site).parts:
            continue
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        found[path.resolve()] = page
    return found


# -- what is written -----------------------------------------------------------------------------


def test_every_page_of_the_book_is_there(site: Path, pages: dict[Path, Page]) -> None:
    wanted = [f"notebooks/{n.stem}" for n in build.notebooks()]
    wanted += [f"book/methods/system-{id_}" for id_ in registry.cards()]
    wanted += [f"book/{p}" for p in PROSE]
    missing = [w for w in wanted if not (site / f"{w}.html").exists()]
    assert missing == []
    landing = (site / "book" / "index.html").read_text(encoding="utf-8")
    in_menu = [
        w for w in wanted if f"{w.removeprefix('book/')}.html" in landing or w[-5:] == "index"
    ]
    assert in_menu == wanted
    assert all(page.title.strip() for page in pages.values() if page.ids)


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


def test_every_erratum_and_every_number_has_an_anchor(site: Path, pages: dict[Path, Page]) -> None:
    errata = pages[(site / "book" / "errata.html").resolve()].ids
    assert {f"erratum-{e.lower()}" for e in survey.errata()} <= errata
    references = pages[(site / "book" / "references.html").resolve()].ids
    assert {f"ref-{n}" for n in survey.references()} <= references


def test_every_image_has_words(pages: dict[Path, Page]) -> None:
    wordless = []
    for path, page in pages.items():
        for image in page.images:
            alt = (image.get("alt") or "").strip()
            if not alt or FILE_NAME.search(alt):
                wordless.append((path.name, str(image.get("src"))[:60], alt))
    assert wordless == []
    assert sum(len(page.images) for page in pages.values()) > len(pages)


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    foreign = {r for page in pages.values() for r in page.resources if urlparse(r).netloc}
    assert foreign == set()
    styles = [p.read_text(encoding="utf-8") for p in site.rglob("*.css")]
    styles += [p.read_text(encoding="utf-8") for p in pages]
    assert [m for text in styles for m in FOREIGN_CSS.findall(text)] == []


# -- what a browser shows ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        driver.get("about:blank")
        requested(driver)
        yield driver


def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the page did not get ready"
        time.sleep(0.1)
    return value


def test_a_missing_browser_is_an_error_that_says_what_to_install() -> None:
    with pytest.raises(BrowserMissing, match="apt-get install chromium chromium-driver"):
        find(("no-such-browser",), "Chromium")


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("page", SHOWN)
def test_pages_fit_their_window(browser: Any, site: Path, page: str, width: int) -> None:
    resize(browser, width, 1000)
    browser.get((site / f"{page}.html").as_uri())
    overflow = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / f"{page.replace('/', '-')}-{width}.png"))
    assert overflow <= 0
    outside = [
        url for url in requested(browser) if urlparse(url).scheme not in ("file", "data", "blob")
    ]
    assert outside == []


@pytest.mark.parametrize("page", ["book/methods/system-dpsh", "notebooks/02_background"])
def test_formulas_are_drawn_by_the_site_itself(browser: Any, site: Path, page: str) -> None:
    resize(browser, 1200)
    browser.get((site / f"{page}.html").as_uri())
    wait(lambda: browser.find_elements("css selector", ".math.notranslate"))
    wanted = len(browser.find_elements("css selector", ".math.notranslate"))
    wait(lambda: len(browser.find_elements("css selector", ".math mjx-container svg")) >= wanted)
    assert browser.find_elements("css selector", "mjx-merror, [data-mml-node=merror]") == []
    assert "mathjax" in browser.execute_script(
        "return [...document.scripts].map(s => s.src).filter(s => s.includes('tex-svg')).join()"
    )


@pytest.fixture
def systems(browser: Any, site: Path) -> Callable[[int], list[str]]:
    """Texts of a column of the visible rows of the method index."""
    resize(browser, 1200)
    browser.get((site / "book/methods/index.html").as_uri())
    wait(lambda: browser.find_elements("css selector", "table.sortable button.sort"))

    def column(number: int) -> list[str]:
        script = """
            const rows = [...document.querySelectorAll("table.sortable tbody tr")];
            return rows.filter(r => r.offsetParent !== null)
                       .map(r => r.cells[arguments[0]].textContent.trim());"""
        return browser.execute_script(script, number)

    return column


def click_heading(browser: Any, number: int) -> str:
    """Click a heading of the first table; its ``aria-sort`` after that."""
    heading = browser.find_elements("css selector", "table.sortable thead th")[number]
    heading.find_element("css selector", "button").click()
    return str(heading.get_attribute("aria-sort"))


def test_a_table_sorts_by_clicking(browser: Any, systems: Callable[[int], list[str]]) -> None:
    assert len(systems(0)) == len(registry.cards())
    assert click_heading(browser, 0) == "ascending"
    names = systems(0)
    assert names == sorted(names, key=str.casefold)
    assert click_heading(browser, 0) == "descending"
    assert systems(0) == names[::-1]
    assert click_heading(browser, 1) == "ascending"
    years = [int(year) for year in systems(1)]
    assert years == sorted(years)
    assert len(set(years)) > 3
    # Numbers sort as numbers, and rows without one stay last in both directions.
    for direction, reverse in (("ascending", False), ("descending", True)):
        assert click_heading(browser, 2) == direction
        cells = systems(2)
        known = [float(re.split("[–\xa0 E]", c)[0]) for c in cells if c != "—"]
        assert known == sorted(known, reverse=reverse)
        assert "—" not in cells[: len(known)]
        assert len(known) > 3
    states = [th.get_attribute("aria-sort") for th in browser.find_elements("css selector", "th")]
    assert states.count("descending") == 1


def test_a_table_of_a_notebook_sorts_and_filters_without_the_site(
    browser: Any, tmp_path: Path
) -> None:
    df = reported_measured(2, measured.records(build.ROOT / "book" / "results"))
    tables = to_html(df, "Table II", file="two.csv") + to_html(df.head(9), "Nine rows")
    page = tmp_path / "page.html"
    page.write_text(f'<meta charset="utf-8"><title>x</title>{tables}', encoding="utf-8")
    browser.get(page.as_uri())
    wait(lambda: browser.find_elements("css selector", "button.sort"))
    # One button a heading and one filter a table, though each table brings the script.
    assert len(browser.find_elements("css selector", ".table-tools input")) == 2
    assert len(browser.find_elements("css selector", ".table-tools a.csv")) == 2
    heads = browser.find_elements("css selector", "thead th")
    assert len(browser.find_elements("css selector", "button.sort")) == len(heads)

    def shown() -> list[str]:
        return browser.execute_script(
            """return [...document.querySelector("table.sortable").tBodies[0].rows]
                   .filter(r => !r.hidden).map(r => r.cells[4].dataset.sort);"""
        )

    for direction, reverse in (("ascending", False), ("descending", True)):
        assert click_heading(browser, 4) == direction
        cells = shown()
        values = [float(c) for c in cells if c]
        assert values == sorted(values, reverse=reverse)
        assert cells[len(values) :] == [""] * (len(df) - len(values))
    browser.find_element("css selector", ".table-tools input").send_keys("dpsh 24")
    rows = browser.execute_script(
        """return [...document.querySelector("table.sortable").tBodies[0].rows]
               .map(r => [r.textContent.toLowerCase(), r.hidden]);"""
    )
    assert [hidden for _, hidden in rows] == [not ("dpsh" in t and "24" in t) for t, _ in rows]
    assert 0 < len(shown()) < len(df)
    status = browser.find_element("css selector", ".table-tools [role=status]").text
    assert status == f"{len(shown())} of {len(df)} rows"


def test_a_table_filters_and_can_be_taken_away(
    browser: Any, systems: Callable[[int], list[str]]
) -> None:
    box = browser.find_element("css selector", ".table-tools input")
    box.send_keys("faithful shallow")
    cards = registry.cards().values()
    wanted = {c.name for c in cards if c.fidelity == "faithful" and c.folder == "shallow"}
    assert set(systems(0)) == wanted
    status = browser.find_element("css selector", ".table-tools [role=status]").text
    assert status == f"{len(wanted)} of {len(registry.cards())} rows"
    link = browser.find_element("css selector", ".table-tools a.csv")
    text = browser.execute_async_script(
        """const [link, done] = arguments;
        link.addEventListener("click", (event) => {
          event.preventDefault();
          fetch(link.href).then((r) => r.text()).then(done);
        });
        link.click();""",
        link,
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["System"] for row in rows} == wanted
    assert link.get_attribute("download") == "systems-implemented-here.csv"
    box.clear()
    box.send_keys("no such system")
    assert systems(0) == []


# -- slides --------------------------------------------------------------------------------------

CURRENT = ".slides .slide.current"


def open_slides(browser: Any, page: Path) -> int:
    """Start the slides of a chapter; how many there are."""
    browser.get(page.as_uri())
    wait(lambda: browser.find_elements("css selector", ".slides-start"))[0].click()
    return len(browser.find_elements("css selector", ".slides .slide"))


def turn(browser: Any, key: str) -> Any:
    """The slide that is shown after a key."""
    ActionChains(browser).send_keys(key).perform()
    return browser.find_element("css selector", CURRENT)


@pytest.mark.parametrize("chapter", [n.stem for n in build.notebooks()])
def test_a_chapter_has_slides_of_what_it_shows(browser: Any, site: Path, chapter: str) -> None:
    resize(browser, 1280, 720)
    count = open_slides(browser, site / f"notebooks/{chapter}.html")
    shown = browser.execute_script(
        """const of = (root, s) => [...document.querySelectorAll(`${root} ${s}`)].length;
        return ["figure", ".verdict", ".exercise", "img"].map(s =>
          [s, of(".bd-article", s), of(".slides", s)]);"""
    )
    for kind, on_page, on_slides in shown:
        assert on_page == on_slides, kind
    assert count > 3
    first = browser.find_element("css selector", CURRENT)
    assert "What you will learn" in first.text
    SHOTS.mkdir(parents=True, exist_ok=True)
    for number in range(2, count + 1):
        slide = turn(browser, Keys.ARROW_RIGHT)
        assert (
            browser.find_element("css selector", ".slides-bar span").text == f"{number} / {count}"
        )
        assert slide.find_element("css selector", "h2").text
        pictures = slide.find_elements("css selector", "img")
        for picture in pictures:
            wait(lambda p=picture: p.get_property("naturalWidth"))
            box = picture.rect
            assert box["width"] > 300, (chapter, number)
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 1280, (chapter, number)
            assert box["height"] > 150, (chapter, number)
        if pictures:
            browser.save_screenshot(str(SHOTS / f"slide-{chapter}.png"))
    outside = [u for u in requested(browser) if urlparse(u).scheme not in ("file", "data", "blob")]
    assert outside == []


def test_slides_are_turned_and_left_by_keys(browser: Any, site: Path) -> None:
    page = site / "notebooks/02_background.html"
    browser.get(page.as_uri())
    ids = "return [...document.querySelectorAll('[id]:not(svg [id])')].map(e => e.id)"
    before = browser.execute_script(ids)
    count = open_slides(browser, page)
    assert browser.execute_script(ids) == before
    titles = [browser.find_element("css selector", CURRENT).text]
    titles += [turn(browser, key).text for key in (Keys.END, Keys.ARROW_RIGHT, Keys.HOME)]
    assert titles[0] == titles[3] != titles[1] == titles[2]
    assert turn(browser, Keys.SPACE).text != titles[0]
    assert turn(browser, Keys.PAGE_UP).text == titles[0]
    buttons = browser.find_elements("css selector", ".slides-bar button")
    assert all(b.get_attribute("aria-label") for b in buttons)
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert browser.find_elements("css selector", ".slides") == []
    # The keys scroll the page again.
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert browser.find_elements("css selector", ".slides") == []
    assert open_slides(browser, page) == count


def test_slides_print_one_a_page(browser: Any, site: Path) -> None:
    count = open_slides(browser, site / "notebooks/02_background.html")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"landscape": True})["data"]
    pages = re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed))
    assert count <= len(pages) <= count + 3


def test_pages_without_experiments_have_no_slides(browser: Any, site: Path) -> None:
    browser.get((site / "book/glossary.html").as_uri())
    assert browser.find_elements("css selector", ".slides-start") == []
