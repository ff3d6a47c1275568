"""The HTML report in a real browser: it needs nothing else, and can be searched and filtered."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from keyferry_hil import rigs
from keyferry_hil.plugin.bench import Bench
from keyferry_hil.plugin.report import Plugin
from support import system_parts

pytestmark = pytest.mark.needs("chromium", "chromedriver")


def phase(test: str, when: str, outcome: str = "passed", **more: object) -> SimpleNamespace:
    return SimpleNamespace(
        nodeid=f"suites/{test}",
        when=when,
        duration=0.25,
        failed=outcome == "failed",
        passed=outcome == "passed",
        skipped=outcome == "skipped",
        longrepr=None,
        **{"longreprtext": "", "bench": {}, **more},
    )


def a_run(place: Path, hostile: str) -> Path:
    """A report of three runs, as the plugin writes it."""
    rig = rigs.load(rigs.find("virtual-4"), place / "state")
    for number in range(3):
        bench = Bench(rig, place, 0.0)
        plugin = Plugin(SimpleNamespace(), bench)  # pyright: ignore[reportArgumentType]
        plugin._began = time.time() - 3600 * (3 - number)
        for name in ("v1", "v2"):
            known = {
                "boards": {
                    name: {
                        "type": "virtual",
                        "log": [f"12:00:00.000 < {hostile}"],
                        "firmware": "ab" * 32,
                        "version": "1.29.0",
                        "chip": "00ff",
                        "free": 170000,
                        "serials": ["5e71a1"],
                    }
                },
                "measures": [
                    {"name": "handshake", "value": 200 + 9 * number, "unit": "ms", "board": name}
                ],
                "attempts": ["it was too slow"] if name == "v2" else [],
                "problem": "",
            }
            test = f"test_link.py::test_enrols[{name}]"
            for when in ("setup", "call", "teardown"):
                plugin.pytest_runtest_logreport(phase(test, when, bench=known))  # pyright: ignore
        failed = phase("test_x.py::test_fails", "call", "failed", longreprtext=hostile)
        plugin.pytest_runtest_logreport(failed)  # pyright: ignore[reportArgumentType]
        plugin.pytest_sessionfinish(SimpleNamespace())  # pyright: ignore[reportArgumentType]
    return place / "report.html"


def test_the_report_in_a_browser(tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    owned = "document.title='owned'"
    hostile = f'<img src=x onerror="{owned}"></pre><script>{owned}</script>'
    page = a_run(tmp_path, hostile)
    options = webdriver.ChromeOptions()
    options.binary_location = system_parts.find("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument("--window-size=1300,1100")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(system_parts.find("chromedriver") or "")
    browser = webdriver.Chrome(options, service)
    try:
        browser.set_page_load_timeout(120)
        browser.get(page.as_uri())
        assert browser.title.startswith("Keyferry bench: four virtual boards")
        assert browser.get_log("browser") == [], "nothing is refused, missing or broken"
        rows = browser.find_elements(By.CSS_SELECTOR, "#tests tr[data-outcome]")
        assert [row.get_attribute("data-outcome") for row in rows] == ["failed", "passed", "passed"]
        assert hostile in rows[0].text
        points = browser.find_elements(By.CSS_SELECTOR, "svg circle")
        assert len(points) == 6, "two boards, three runs"
        assert "attempt 2" in rows[2].text
        browser.find_element(By.CSS_SELECTOR, "button[data-outcome=failed]").click()
        assert [row.is_displayed() for row in rows] == [True, False, False]
        browser.find_element(By.CSS_SELECTOR, "button[data-outcome=failed]").click()
        browser.find_element(By.ID, "find").send_keys("v2")
        assert [row.is_displayed() for row in rows] == [False, False, True]
        boards = browser.find_element(By.ID, "boards").text
        for text in ("v1", "v4", "abababababab", "1.29.0", "170,000 B"):
            assert text in boards
        assert browser.get_screenshot_as_png()[:4] == b"\x89PNG"
    finally:
        browser.quit()
