"""The report in a real browser, from file://: what moves, what keys do, narrow windows and dark mode."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import made_up_study
from brainscm.report.render import PAGES, render_report
from brainscm.report.study import Study

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip(
        "THE REPORT IS NOT TESTED IN A BROWSER: chromium or chromedriver is missing (Debian: chromium chromium-driver)",
        allow_module_level=True,
    )
selenium = pytest.importorskip("selenium.webdriver", reason="THE REPORT IS NOT TESTED IN A BROWSER: no selenium")

from selenium.webdriver import Chrome, ChromeOptions, ChromeService  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    config = made_up_study.make_study(folder, participants=15)
    made_up_study.write_evaluation(folder, made_up_study.open_study(folder, config))
    study = Study.read(folder, config)
    render_report(study, made_up_study.open_gallery(study), folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(driver: Chrome, path: Path) -> None:
    driver.get(path.as_uri())


def press(driver: Chrome, key: str) -> None:
    driver.find_element(By.TAG_NAME, "body").send_keys(key)


def first_column(driver: Chrome) -> list[str]:
    return [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "#scans-table tbody th")]


def test_pages_load_without_errors_and_without_the_network(driver, report):
    for path in [*(report / page.file for page in PAGES), report / "scans" / "sub-05_ses-1.html"]:
        visit(driver, path)
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == [], path.name
        requested = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(url.startswith("data:") for url in requested), path.name
        broken = driver.execute_script("return [...document.images].filter(image => !image.naturalWidth).length")
        assert broken == 0, path.name


def test_the_table_is_filtered_and_sorted(driver, report):
    visit(driver, report / "cohort.html")
    everyone = first_column(driver)
    assert len(everyone) == 20
    driver.find_element(By.ID, "scans-search").send_keys("sub-03 cut")
    assert first_column(driver) == ["sub-03_ses-1", "sub-03_ses-2"]
    driver.find_element(By.ID, "scans-search").send_keys(Keys.BACKSPACE * 20)
    Select(driver.find_element(By.ID, "scans-status")).select_by_visible_text("warn")
    assert first_column(driver) == ["sub-05_ses-1"]
    Select(driver.find_element(By.ID, "scans-status")).select_by_visible_text("any")
    Select(driver.find_element(By.ID, "scans-split")).select_by_visible_text("test")
    assert first_column(driver) == ["sub-05_ses-1", "sub-10_ses-1", "sub-15_ses-1", "sub-15_ses-2"]
    Select(driver.find_element(By.ID, "scans-split")).select_by_visible_text("any")

    heads = driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th")
    column = next(place for place, head in enumerate(heads) if head.text.startswith("age"))
    for order in ("ascending", "descending"):
        heads[column].find_element(By.TAG_NAME, "button").click()
        assert heads[column].get_attribute("aria-sort") == order
        cells = driver.find_elements(By.CSS_SELECTOR, f"#scans-table tbody td:nth-child({column + 1})")
        ages = [float(cell.text) for cell in cells if cell.text != "–"]
        assert ages == sorted(ages, reverse=order == "descending")
        assert cells[-1].text == "–"  # who has none comes last, either way


def test_a_point_of_a_strip_opens_its_scan(driver, report):
    visit(driver, report / "cohort.html")
    opened = driver.execute_script(
        """
        const canvas = document.querySelector(".strip canvas"), box = canvas.getBoundingClientRect();
        for (let x = 0; x < box.width; x += 3) for (let y = 0; y < box.height; y += 3) {
          const where = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
          canvas.dispatchEvent(new MouseEvent("mousemove", where));
          const tip = document.querySelector(".tip");
          if (!tip.hidden) {
            canvas.dispatchEvent(new MouseEvent("click", where));
            return tip.textContent.split(":")[0];
          }
        }
        """
    )
    assert opened
    WebDriverWait(driver, 20).until(lambda d: d.current_url.endswith(f"/scans/{opened}.html"))


def test_j_and_k_walk_through_the_scans(driver, report):
    visit(driver, report / "scans" / "sub-04_ses-1.html")
    press(driver, "j")
    WebDriverWait(driver, 20).until(lambda d: d.current_url.endswith("sub-05_ses-1.html"))
    press(driver, "k")
    WebDriverWait(driver, 20).until(lambda d: d.current_url.endswith("sub-04_ses-1.html"))


def test_letters_typed_into_the_search_are_not_keys(driver, report):
    visit(driver, report / "cohort.html")
    driver.find_element(By.ID, "scans-search").send_keys("jkfx")
    assert driver.current_url.endswith("cohort.html")
    assert first_column(driver) == []


def test_flicker_by_key_and_by_button(driver, report):
    visit(driver, report / "scans" / "sub-05_ses-1.html")
    group = driver.find_element(By.CSS_SELECTOR, ".flicker-group")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", group)
    second = group.find_elements(By.TAG_NAME, "img")[1]
    assert second.value_of_css_property("opacity") == "0"
    press(driver, "x")
    assert second.value_of_css_property("opacity") == "1"
    swap, play = (group.find_element(By.CSS_SELECTOR, f"[data-flicker={name}]") for name in ("swap", "play"))
    assert swap.get_attribute("aria-pressed") == "true"
    play.click()
    assert second.value_of_css_property("animation-name") == "flicker"
    assert [button.get_attribute("aria-pressed") for button in (play, swap)] == ["true", "false"]
    press(driver, "f")
    assert second.value_of_css_property("animation-name") == "none"


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_the_window(driver, report, width):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        for path in [*(report / page.file for page in PAGES), report / "scans" / "sub-05_ses-1.html"]:
            visit(driver, path)
            found = driver.execute_script("return document.documentElement.scrollWidth")
            assert found <= width, path.name
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(driver, report, scheme):
    """WCAG contrast of every kind of text against its background: 4.5 at least."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    visit(driver, report / "cohort.html")
    contrasts = driver.execute_script(
        """
        const parse = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const light = colour => parse(colour).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const paper = light(getComputedStyle(document.documentElement).backgroundColor);
        const found = {};
        const kinds = ["p", ".lead", "figcaption", "a[href^=scans]", ".status.pass", ".status.warn", ".status.fail"];
        for (const query of kinds)
          found[query] = light(getComputedStyle(document.querySelector(query)).color);
        found.paper = paper;
        return found;
        """
    )
    paper = contrasts.pop("paper")
    assert (paper < 0.1) == (scheme == "dark")
    for kind, light in contrasts.items():
        assert (max(light, paper) + 0.05) / (min(light, paper) + 0.05) >= 4.5, kind
