"""A headless browser for the pages of the site."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--hide-scrollbars",
)  # fmt: skip


class BrowserMissing(RuntimeError):
    """No browser or no driver for it is installed."""


def find(names: tuple[str, ...], what: str) -> str:
    """Path of the first program that is installed; :class:`BrowserMissing` says what to install."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    raise BrowserMissing(
        f"no {what} found (looked for {', '.join(names)}): the site tests open the pages in "
        "headless Chromium. On Debian or Ubuntu: apt-get install chromium chromium-driver"
    )


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Chromium with a fresh profile; the log of all requests is on."""
    options = webdriver.ChromeOptions()
    options.binary_location = find(BROWSERS, "Chromium")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = Service(find(DRIVERS, "chromedriver"))
    with tempfile.TemporaryDirectory(prefix="cbir-site-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service)
        driver.set_page_load_timeout(60)
        try:
            yield driver
        finally:
            driver.quit()


def resize(driver: webdriver.Chrome, width: int, height: int = 900) -> None:
    """Width of the page itself: a window cannot be made as narrow as a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def requested(driver: webdriver.Chrome) -> list[str]:
    """Addresses that pages asked for since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
