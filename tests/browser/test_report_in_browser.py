"""The report in a real browser, from file://: what moves, what keys do, narrow windows and dark mode."""

from __future__ import annotations

import base64
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

import made_up_bundle
import made_up_study
from brainscm.config import Config
from brainscm.report.assets import NIIVUE
from brainscm.report.render import PAGES, render_report
from brainscm.report.study import Study
from brainscm.tables import read_table, write_table
from workflows import indexed_study, run_workflow, stubbed_checkout

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
    questions = [*made_up_study.CONFIG["counterfactuals"], {"name": "ages", "do": {"age": [40, 55, 70]}}]
    config = made_up_study.make_study(folder, participants=15, config={"counterfactuals": questions})
    made_up_study.write_evaluation(folder, made_up_study.open_study(folder, config))
    study = Study.read(folder, config)
    render_report(study, made_up_study.open_gallery(study), folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Chrome]:
    driver = start_chromium(tmp_path_factory, "--disable-gpu")
    yield driver
    driver.quit()


def start_chromium(tmp_path_factory, *flags: str) -> Chrome:
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    for flag in (
        *flags, "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    driver.downloads = downloads
    return driver


def visit(driver: Chrome, path: Path) -> None:
    driver.get(path.as_uri())


def arrive(driver: Chrome, scan: str) -> None:
    WebDriverWait(driver, 20).until(lambda d: f"/scans/{scan}.html" in d.current_url)
    WebDriverWait(driver, 20).until(lambda d: d.execute_script("return document.readyState") == "complete")


def press(driver: Chrome, key: str) -> None:
    driver.find_element(By.TAG_NAME, "body").send_keys(key)


@pytest.fixture(autouse=True)
def _nothing_is_kept(driver, report) -> None:
    """Each test finds a browser that has rated nothing."""
    visit(driver, report / "methods.html")
    driver.execute_script("localStorage.clear()")


@pytest.fixture(scope="module")
def report_of_a_bundle(tmp_path_factory) -> Path:
    fitted, folder = tmp_path_factory.mktemp("fitted"), tmp_path_factory.mktemp("new")
    config = made_up_study.make_study(fitted)
    bundle = made_up_bundle.make_bundle(fitted, config, tmp_path_factory.mktemp("elsewhere") / "last-year")
    made_up_bundle.render_put_to_bundle(config, bundle, made_up_bundle.put_to_bundle(fitted, config, bundle, folder))
    return folder / "report"


def pages_of(report: Path) -> list[Path]:
    """One page of every type, and of a scan that failed."""
    scans = ["sub-05_ses-1", "sub-03_ses-1"]
    closer = [report / "viewer.html"] if NIIVUE.exists() else []
    return [*(report / page.file for page in PAGES), *(report / "scans" / f"{scan}.html" for scan in scans), *closer]


def pages_of_a_bundle(report: Path) -> list[Path]:
    """Those of a study whose scans were put to a bundle, and one of its scans'."""
    return [*sorted(report.glob("*.html")), next((report / "scans").iterdir())]


def resize(driver: Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def first_column(driver: Chrome) -> list[str]:
    return [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "#scans-table tbody th")]


def test_pages_load_without_errors_and_without_the_network(driver, report):
    for path in pages_of(report):
        visit(driver, path)
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == [], path.name
        requested = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(url.startswith(("data:", report.as_uri())) for url in requested), path.name
        broken = driver.execute_script("return [...document.images].filter(image => !image.naturalWidth).length")
        assert broken == 0, path.name


def test_the_table_is_filtered_and_sorted(driver, report):
    visit(driver, report / "cohort.html")
    everyone = first_column(driver)
    assert len(everyone) == 20
    assert everyone[:3] == ["sub-03_ses-1", "sub-03_ses-2", "sub-05_ses-1"]  # worst first
    driver.find_element(By.ID, "scans-search").send_keys("sub-03 cut")
    assert first_column(driver) == ["sub-03_ses-1", "sub-03_ses-2"]
    driver.find_element(By.ID, "scans-search").send_keys(Keys.BACKSPACE * 20)
    Select(driver.find_element(By.ID, "scans-status")).select_by_visible_text("warn")
    assert first_column(driver) == ["sub-05_ses-1"]
    Select(driver.find_element(By.ID, "scans-status")).select_by_visible_text("any")
    Select(driver.find_element(By.ID, "scans-split")).select_by_visible_text("test")
    assert sorted(first_column(driver)) == ["sub-05_ses-1", "sub-10_ses-1", "sub-15_ses-1", "sub-15_ses-2"]
    Select(driver.find_element(By.ID, "scans-split")).select_by_visible_text("any")

    for order in ("ascending", "descending"):
        heads = driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th")
        column = next(place for place, head in enumerate(heads) if head.text.startswith("age"))
        heads[column].find_element(By.TAG_NAME, "button").click()
        (sorted_by,) = driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th[aria-sort]")
        assert (sorted_by.text.split()[0], sorted_by.get_attribute("aria-sort")) == ("age", order)
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
    visit(driver, report / "scans" / "sub-03_ses-2.html")
    press(driver, "j")
    arrive(driver, "sub-05_ses-1")
    press(driver, "k")
    arrive(driver, "sub-03_ses-2")


def test_j_and_k_follow_the_tables_own_order_and_filter(driver, report):
    visit(driver, report / "cohort.html")
    driver.get(f"{driver.current_url}#split=test&sort=age&down=1")
    driver.refresh()
    order = first_column(driver)
    assert sorted(order) == ["sub-05_ses-1", "sub-10_ses-1", "sub-15_ses-1", "sub-15_ses-2"]
    press(driver, "j")
    for scan in order:
        arrive(driver, scan)
        press(driver, "j")
    arrive(driver, order[-1])  # the last one has no next
    assert "4 of 4" in driver.find_element(By.CSS_SELECTOR, ".neighbours").text
    press(driver, "a")
    WebDriverWait(driver, 20).until(lambda d: "cohort.html#split=test" in d.current_url)
    assert first_column(driver) == order


def test_going_back_finds_the_table_as_it_was_left(driver, report):
    visit(driver, report / "cohort.html")
    driver.find_element(By.ID, "scans-search").send_keys("sub-15")
    Select(driver.find_element(By.ID, "scans-split")).select_by_visible_text("test")
    left = first_column(driver)
    assert len(left) == 2
    driver.find_element(By.CSS_SELECTOR, "#scans-table tbody a").click()
    arrive(driver, left[0])
    driver.back()
    WebDriverWait(driver, 20).until(lambda d: "cohort.html" in d.current_url)
    assert driver.find_element(By.ID, "scans-search").get_attribute("value") == "sub-15"
    assert first_column(driver) == left


def test_the_search_finds_words_where_they_begin(driver, report):
    visit(driver, report / "cohort.html")
    search = driver.find_element(By.ID, "scans-search")
    for typed, found in (("cut", 2), ("opy", 0), ("COPY", 0), ("F", 9)):
        search.clear()
        search.send_keys(typed)
        assert len(first_column(driver)) == found, typed


def test_status_sorts_by_severity_and_columns_can_be_chosen(driver, report):
    visit(driver, report / "cohort.html")
    heads = driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th")
    assert len(heads) == 12
    for _ in range(2):
        driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th button")[1].click()
    status = [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "#scans-table tbody td:nth-child(2)")]
    assert status == ["pass"] * 17 + ["warn"] + ["fail"] * 2
    driver.find_element(By.CSS_SELECTOR, "#scans-columns summary").click()
    driver.find_element(By.CSS_SELECTOR, "#scans-columns input[value=gm_ml]").click()
    assert len(driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th")) == 13
    driver.refresh()
    heads = [head.text for head in driver.find_elements(By.CSS_SELECTOR, "#scans-table thead th")]
    assert any(head.startswith("Grey matter") for head in heads)


@pytest.mark.parametrize(("width", "least"), [(390, 180), (900, 340), (1400, 340)])
def test_long_reasons_have_room(driver, report, width, least):
    resize(driver, width)
    try:
        visit(driver, report / "cohort.html")
        cell = driver.find_element(By.CSS_SELECTOR, "#scans-table tbody td.reasons")
        assert "cut" in cell.text
        assert cell.size["width"] >= least
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


WORST = ("sub-12_ses-2", "sub-04_ses-1", "sub-07_ses-1")  # of the large cohort; all of the training split


@pytest.fixture(scope="module")
def large_study(tmp_path_factory, report) -> tuple[Path, Config]:
    """The results of a study of 138 scans, three of which have a warning, and its raw (empty) scans beside them."""
    folder = tmp_path_factory.mktemp("large") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up_study, "FAILED", "nobody")
        patch.setattr(made_up_study, "WARNED", "nobody")
        config = made_up_study.make_study(folder, participants=104)
    qc = read_table(folder / "preproc" / "qc.tsv").set_index("scan").astype({"reasons": object})
    for far, scan in enumerate(reversed(WORST), start=1):
        qc.loc[scan, ["status", "reasons", "mask_volume_ml"]] = ["warn", "a large mask", 3000.0 + 1000 * far]
    write_table(qc.reset_index(), folder / "preproc" / "qc.tsv")
    shutil.copytree(report.parent / "evaluation", folder / "evaluation")  # a reviewer of scans does not look at it
    scans = read_table(folder / "cohort" / "scans.tsv")
    for path in map(Path, scans["path"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    participants = scans[["participant", "split", "sex"]].drop_duplicates()
    write_table(participants.rename(columns={"participant": "participant_id"}), folder / "bids" / "participants.tsv")
    sessions = scans.rename(columns={"participant": "participant_id", "session": "session_id"})
    write_table(sessions[["participant_id", "session_id", "age"]], folder / "bids" / "sessions.tsv")
    return folder, config


def index_cohort(folder: Path, bids: Path, **cohort: str) -> Path:
    """Type the study's command for its index; the folder of its tables."""
    scm = {"nodes": {"age": {"unit": "years"}, "sex": {}}, "image": {"formula": "age + sex"}}
    study = {"bids_dir": str(bids), "scm": scm, "cohort": {"split": {"column": "split"}, **cohort}}
    tables = folder / "results" / "cohort"
    done = run_workflow(folder, study, str(tables / "scans.tsv"))
    assert done.returncode == 0, done.stdout
    return tables


def test_a_reviewer_goes_through_138_scans_by_keyboard_and_two_are_gone_from_the_fit(driver, large_study, tmp_path):
    folder, config = large_study
    before = index_cohort(tmp_path, folder / "bids")
    everyone = set(read_table(before / "scans.tsv")["scan"])
    assert len(everyone) == 138
    study = Study.read(folder, config)
    render_report(study, None, tmp_path / "report")

    visit(driver, tmp_path / "report" / "cohort.html")
    driver.find_element(By.CSS_SELECTOR, "[data-rating=rater]").send_keys("A. Rater" + Keys.TAB)
    press(driver, "j")
    met = []
    for place in range(138):
        WebDriverWait(driver, 20, poll_frequency=0.02).until(
            lambda d, place=place: f"{place + 1} of 138" in d.find_element(By.CSS_SELECTOR, ".neighbours").text
        )
        scan = driver.find_element(By.TAG_NAME, "h1").text
        met.append(scan)
        press(driver, "e" if scan in WORST else "p")
        if scan == WORST[1]:
            press(driver, "e")  # once more takes it back
            press(driver, "d")
        if scan == WORST[2]:
            press(driver, "1")
            press(driver, "n")
            driver.switch_to.active_element.send_keys("blurred  in front", Keys.ESCAPE)
        if place < 137:
            press(driver, "j")
    assert tuple(met[:3]) == WORST  # the three worst first
    assert set(met) == everyone
    assert "138 scans rated" in driver.find_element(By.CSS_SELECTOR, ".rating").text
    driver.find_element(By.CSS_SELECTOR, "[data-ratings=save]").click()
    ratings = driver.downloads / "ratings.tsv"
    WebDriverWait(driver, 20).until(lambda d: ratings.exists())
    press(driver, "a")
    WebDriverWait(driver, 20).until(lambda d: "cohort.html" in d.current_url)
    Select(driver.find_element(By.ID, "scans-rated")).select_by_visible_text("exclude")
    assert first_column(driver) == [WORST[0], WORST[2]]

    after = index_cohort(tmp_path, folder / "bids", exclude=str(ratings))
    assert everyone - set(read_table(after / "scans.tsv")["scan"]) == {WORST[0], WORST[2]}
    excluded = read_table(after / "excluded.tsv").set_index("scan")
    assert excluded.loc[WORST[0], "reason"] == "rated exclude by A. Rater"
    assert excluded.loc[WORST[2], "reason"] == "rated exclude by A. Rater: motion; blurred in front"

    fitted = set(read_table(folder / "scm" / "covariates.tsv")["scan"])
    assert set(WORST) <= fitted
    shutil.copy(after / "scans.tsv", folder / "cohort" / "scans.tsv")
    made_up_study.encode(folder)
    made_up_study.fit(folder, config)
    assert fitted - set(read_table(folder / "scm" / "covariates.tsv")["scan"]) == {WORST[0], WORST[2]}


def test_the_slice_viewer_moves_all_planes_and_keeps_its_place_in_the_address(driver, report):
    visit(driver, report / "scans" / "sub-05_ses-1.html")
    viewer = driver.find_element(By.ID, "viewer")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    where = viewer.find_element(By.CSS_SELECTOR, "[data-where]")
    WebDriverWait(driver, 20).until(lambda d: where.text)
    canvases = viewer.find_elements(By.TAG_NAME, "canvas")
    before, start = [sum_of(driver, canvas) for canvas in canvases], where.text
    canvases[0].send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP)
    WebDriverWait(driver, 20).until(lambda d: where.text != start)
    assert sum_of(driver, canvases[0]) != before[0]
    assert [sum_of(driver, canvas) for canvas in canvases[1:]] == before[1:]
    assert "z 21 mm" in where.text
    with_difference = sum_of(driver, canvases[0])
    press(driver, "v")
    WebDriverWait(driver, 20).until(lambda d: sum_of(d, canvases[0]) != with_difference)
    moved = where.text
    driver.refresh()
    again = driver.find_element(By.CSS_SELECTOR, "[data-where]")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", again)
    WebDriverWait(driver, 20).until(lambda d: again.text == moved)


def test_the_slice_viewer_follows_the_wheel_a_click_a_slider_and_opacity(driver, report):
    visit(driver, report / "scans" / "sub-05_ses-1.html")
    viewer = driver.find_element(By.ID, "viewer")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    where = viewer.find_element(By.CSS_SELECTOR, "[data-where]")
    WebDriverWait(driver, 20).until(lambda d: where.text)
    axial = viewer.find_element(By.TAG_NAME, "canvas")
    moves = {
        "the wheel": "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, cancelable: true}))",
        "a click": """const box = arguments[0].getBoundingClientRect();
            arguments[0].dispatchEvent(new MouseEvent('click', {clientX: box.left + 20, clientY: box.top + 30}))""",
    }
    for name, script in moves.items():
        before = where.text
        driver.execute_script(script, axial)
        WebDriverWait(driver, 20).until(lambda d, before=before: where.text != before, name)
    before = where.text
    set_range(driver, viewer.find_element(By.CSS_SELECTOR, ".planes input"), 3)
    WebDriverWait(driver, 20).until(lambda d: where.text != before, "a slider")
    # On the right of the picture is the participant's right: left is left.
    sides = [each.text for each in viewer.find_elements(By.CSS_SELECTOR, ".plane b")]
    assert sides == ["L", "R", "L", "R", "P", "A"]
    x_of_click = int(re.search(r"x (\S+),", where.text.replace("−", "-"))[1])
    assert x_of_click < 0
    before = where.text
    set_range(driver, viewer.find_element(By.CSS_SELECTOR, ".planes input"), 9)
    WebDriverWait(driver, 20).until(lambda d: where.text != before)  # written once all is drawn
    opaque = sum_of(driver, axial)
    set_range(driver, viewer.find_element(By.CSS_SELECTOR, "[data-opacity]"), 0)
    WebDriverWait(driver, 20).until(lambda d: sum_of(d, axial) != opaque, "opacity")


def sum_of(driver: Chrome, canvas) -> int:
    """A number that changes with what is drawn on a canvas."""
    return driver.execute_script(
        "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        ".reduce((sum, value, at) => (sum * 31 + value) % 1000003, 0)",
        canvas,
    )


def set_range(driver: Chrome, field, value: int) -> None:
    driver.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        field,
        value,
    )


def test_a_trajectory_is_moved_through_by_its_slider_or_seen_at_once(driver, report):
    visit(driver, report / "scans" / "sub-05_ses-1.html")
    controls = driver.find_element(By.CSS_SELECTOR, "[data-slides]")
    figure = controls.find_element(By.XPATH, "./ancestor::figure[1]")
    slider, told, together = (controls.find_element(By.TAG_NAME, tag) for tag in ("input", "strong", "button"))

    def shown() -> list[str]:
        """Names of the members in view, each with its own badges."""
        names = figure.find_elements(By.CSS_SELECTOR, "span[data-slide]")
        pictures = figure.find_elements(By.CSS_SELECTOR, "div[data-slide]")
        assert [each.is_displayed() for each in names] == [each.is_displayed() for each in pictures]
        return [each.text.replace("\n", ": ") for each in names if each.is_displayed()]

    young, middle, old = "age 40 years: few near", "age 55 years: few near", "age 70 years: extrapolation, few near"
    assert shown() == [told.text] == [old]  # the last value
    set_range(driver, slider, 0)
    assert shown() == [told.text] == [young]
    assert slider.get_attribute("aria-valuetext") == young
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown() == [middle]
    together.click()
    assert shown() == [young, middle, old]
    assert together.get_attribute("aria-pressed") == "true"
    slider.send_keys(Keys.ARROW_LEFT)
    assert shown() == [young]
    # Small multiples: a region each, a point a value, all as large.
    charts = figure.find_elements(By.CSS_SELECTOR, ".multiples svg")
    assert len(charts) == 5
    assert all(len(chart.find_elements(By.TAG_NAME, "circle")) == 3 for chart in charts)
    assert len({chart.size["width"] for chart in charts}) == 1
    # An extrapolation is an open circle, and what is expected a dashed line.
    assert all(len(chart.find_elements(By.CSS_SELECTOR, "circle.hollow")) == 1 for chart in charts)
    assert all(len(chart.find_elements(By.CSS_SELECTOR, "polyline.zero")) == 1 for chart in charts)


def test_a_later_scan_lies_in_the_viewer_beside_what_was_expected_of_it(driver, report):
    visit(driver, report / "scans" / "sub-15_ses-1.html")
    viewer = driver.find_element(By.ID, "viewer")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    WebDriverWait(driver, 20).until(lambda d: viewer.find_element(By.CSS_SELECTOR, "[data-where]").text)
    over = Select(viewer.find_element(By.CSS_SELECTOR, "[data-layer=over]"))
    value, about = (viewer.find_element(By.CSS_SELECTOR, f"[data-{name}]") for name in ("value", "about"))
    canvas, drawn = viewer.find_element(By.TAG_NAME, "canvas"), set()
    expected = "4.0 years later (ses-2)"
    for layer in (expected, f"{expected} − scan", f"truth of {expected}", f"truth of {expected} − scan"):
        over.select_by_visible_text(layer)
        WebDriverWait(driver, 20).until(lambda d, layer=layer: value.text.startswith(f"{layer}: "))
        drawn.add(sum_of(driver, canvas))
        badges = "" if layer.startswith("truth") else "extrapolation, few near, not calibrated"
        assert (about.text if about.is_displayed() else "") == badges
    assert len(drawn) == 4
    driver.find_element(By.LINK_TEXT, "sub-15_ses-2").click()
    arrive(driver, "sub-15_ses-2")


def test_each_question_has_its_own_slice_viewer_whose_places_do_not_mix(driver, report):
    visit(driver, report / "counterfactuals.html")
    viewers = driver.find_elements(By.CSS_SELECTOR, ".viewer")
    assert [each.get_attribute("id") for each in viewers] == ["slices-older-by-20", "slices-man", "slices-ages"]
    wheres = [each.find_element(By.CSS_SELECTOR, "[data-where]") for each in viewers]
    for viewer, where in zip(viewers, wheres, strict=True):
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
        WebDriverWait(driver, 20).until(lambda d, where=where: where.text)
    start = wheres[0].text
    viewers[1].find_element(By.TAG_NAME, "canvas").send_keys(Keys.ARROW_UP)
    WebDriverWait(driver, 20).until(lambda d: wheres[1].text != start)
    assert wheres[0].text == start
    assert "at.man=" in driver.current_url
    about = viewers[0].find_element(By.CSS_SELECTOR, "[data-about]")
    assert about.text == "extrapolation, few near"
    Select(viewers[0].find_element(By.CSS_SELECTOR, "[data-layer=over]")).select_by_visible_text("reconstruction")
    WebDriverWait(driver, 20).until(lambda d: not about.is_displayed())  # which is no counterfactual


def test_a_threshold_hides_small_effects_and_its_table_follows(driver, report):
    visit(driver, report / "scm.html")
    viewer = driver.find_element(By.ID, "viewer")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    WebDriverWait(driver, 20).until(lambda d: viewer.find_element(By.CSS_SELECTOR, "[data-where]").text)
    canvas = viewer.find_element(By.TAG_NAME, "canvas")
    threshold = viewer.find_element(By.CSS_SELECTOR, "[data-threshold]")
    table = driver.find_element(By.CSS_SELECTOR, "[data-clusters] tbody")
    seen, listed = set(), []
    for tenth in (1, 5, 9):
        set_range(driver, threshold, tenth)
        seen.add(sum_of(driver, canvas))
        rows = table.find_elements(By.TAG_NAME, "tr")
        listed.append(sum(float(row.find_elements(By.TAG_NAME, "td")[0].text.replace(",", "")) for row in rows))
        limit = 10 * float(viewer.find_element(By.CSS_SELECTOR, "[data-below]").text) / tenth
        peaks = [row.find_elements(By.TAG_NAME, "td")[1].text.replace("−", "-") for row in rows]
        assert all(abs(float(peak)) >= tenth / 10 * limit - 0.01 for peak in peaks)
    assert len(seen) == 3
    assert listed == sorted(listed, reverse=True)


@pytest.mark.skipif(not NIIVUE.exists(), reason="THE 3D VIEWER IS NOT TESTED: make report/niivue.umd.js fetches it")
def test_full_resolution_and_3d_open_on_a_click_from_the_disk_alone(report, tmp_path_factory):
    driver = start_chromium(tmp_path_factory, "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    try:
        visit(driver, report / "scans" / "sub-05_ses-1.html")
        viewer = driver.find_element(By.ID, "viewer")
        Select(viewer.find_element(By.CSS_SELECTOR, "[data-layer=over]")).select_by_visible_text("man − scan")
        viewer.find_element(By.CSS_SELECTOR, "[data-closer]").click()
        WebDriverWait(driver, 120).until(lambda d: d.execute_script("return document.body.dataset.ready") == "yes")
        assert Select(driver.find_element(By.ID, "over")).first_selected_option.text == "man − scan"
        assert driver.find_element(By.ID, "about").text == "extrapolation, few near, not calibrated"
        requested = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [url for url in requested if not url.startswith(("data:", "blob:", report.as_uri()))] == []
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        canvas, drawn = driver.find_element(By.ID, "volumes"), set()
        for view in ("planes and 3D", "3D", "axial"):
            Select(driver.find_element(By.ID, "view")).select_by_visible_text(view)
            WebDriverWait(driver, 120).until(lambda d: canvas.screenshot_as_base64 not in drawn)
            drawn.add(canvas.screenshot_as_base64)
        assert len(drawn) == 3
    finally:
        driver.quit()


def test_the_first_page_claims_no_more_than_the_evaluation_shows(driver, report):
    """Each claim is worked out anew from the evaluation's tables."""
    folder = report.parent
    metrics = read_table(folder / "evaluation" / "metrics.tsv")
    manifest = read_table(folder / "counterfactuals" / "manifest.tsv")
    visit(driver, report / "index.html")
    page = driver.find_element(By.ID, "main").text.replace("−", "-")
    own = metrics[(metrics["source"] == "simulated") & metrics["decode"].isin(["none", "residual"])]

    # Headlines: the mean with its interval, the number of scans and participants, and a word on how few they are.
    means = own[(own["level"] == "mean") & (own["stratum"] == "all") & own["region"].isna()]
    ours = means[means["method"] == "latent_glm"].set_index("metric")
    for metric in ("change_correlation", "change_slope"):
        row = ours.loc[metric]
        (figure,) = [
            each.text.replace("−", "-")
            for each in driver.find_elements(By.CSS_SELECTOR, ".figures > div")
            if f"\n{row['value']:.2f}\n" in each.text.replace("−", "-")
        ]
        assert f"({row['ci95_low']:.2f} to {row['ci95_high']:.2f}; 4 scans of 3 participants)" in figure
    assert "All this rests on 3 participants: another few may give other figures, and 95 % intervals" in page

    # The margin is to the best of all baselines, and a loss is called one.
    scored = own[(own["level"] == "scan") & (own["metric"] == "psnr_brain_db") & own["region"].isna()]
    psnr = scored.groupby("method")["value"].mean().drop(["pca_ceiling", "latent_ceiling"])
    rivals = psnr.drop("latent_glm")
    (margin,) = re.findall(r"Its volumes are .*? dB (nearer to|further from) the truth than those of .*", page)
    assert (margin == "nearer to") == (psnr["latent_glm"] > rivals.max())
    assert f"{abs(psnr['latent_glm'] - rivals.max()):.1f} dB {margin} the truth than those of the best baseline" in page
    assert rivals.idxmax() == "persistence"
    assert "best baseline, no change" in page

    # Three participants cannot tell whether intervals hold what they promise.
    assert ours.loc["interval_coverage_95", "value"] == 1
    assert "hold the truth in 100 % of cases" in page
    assert "cannot be told from 95 %" in page

    # Every region that moves the wrong way under a query is named with what is measured and what is right.
    single = metrics[(metrics["level"] == "scan") & (metrics["metric"] == "region_change_ml")]
    single = single[(single["source"] == "simulated") & (single["query"] == "older-by-20")]
    change = single[single["decode"].isin(["none", "residual"])].groupby(["method", "region"])["value"].mean()
    wrong = [region for region in change["truth"].index if change["latent_glm"][region] * change["truth"][region] < 0]
    assert wrong == ["ventricles"]
    (sentence,) = re.findall(r"Under older-by-20 move in the wrong direction: .*", page)
    for region in wrong:
        told = f"{region} ({change['latent_glm'][region]:+.1f} ml where {change['truth'][region]:+.1f} are true)"
        assert told in sentence

    # The example says how far the data can answer, and what its pictures measure beside what was expected.
    shown = driver.find_element(By.CSS_SELECTOR, "figure:has(.badges)")
    badges = [each.text for each in shown.find_elements(By.CSS_SELECTOR, ".badge")]
    made = manifest[manifest["path"].notna()]
    is_supported = ~made["extrapolation"].astype(bool) & (made["positivity"] >= 5)
    assert not is_supported.any()
    assert "No answer is supported in every respect; this is one of those that lack least." in page
    scan, query = re.search(r"Change of regional volumes of (\S+) under (\S+):", shown.text).groups()
    example = made[(made["scan"] == scan) & (made["query"] == query)].iloc[0]
    assert ("extrapolation" in badges) == bool(example["extrapolation"])
    assert ("few near" in badges) == (example["positivity"] < 5)
    assert "supported" not in badges
    assert re.search(r"Ventricles: \S+ ml measured, \S+ ml expected", shown.text)
    for query, beyond in made["extrapolation"].astype(bool).groupby(made["query"]).sum().items():
        row = [each.text for each in driver.find_elements(By.CSS_SELECTOR, "table tr") if each.text.startswith(query)]
        assert all(each.split()[-1] == str(beyond) for each in row)
    assert "A counterfactual is what a fitted model says: not a measurement, and not a diagnosis." in page


def test_the_paragraph_and_the_bibtex_are_taken_along_by_a_button(driver, report):
    visit(driver, report / "methods.html")
    told = driver.find_element(By.CSS_SELECTOR, "[data-copied]")
    chosen = "return getSelection().toString()"
    # The second is as where a browser gives a page of the disk no clipboard.
    clipboards = ("async text => { window.taken = text; }", "null")
    for place, begins in (("#text p", "20 T1-weighted scans of 15 participants"), ("#bibtex", "@misc{brainscm,")):
        for clipboard, said in zip(clipboards, ("copied", "marked"), strict=True):
            driver.execute_script(f"navigator.clipboard.writeText = {clipboard}")
            driver.find_element(By.CSS_SELECTOR, f"[data-copy='{place}']").click()
            WebDriverWait(driver, 20).until(lambda d, said=said: said in told.text)
        assert driver.execute_script("return window.taken").strip().startswith(begins)
        assert driver.execute_script(chosen).strip().startswith(begins)


def test_question_mark_lists_the_keys(driver, report):
    visit(driver, report / "index.html")
    dialog = driver.find_element(By.ID, "keys")
    assert not dialog.is_displayed()
    press(driver, "?")
    assert dialog.is_displayed()
    assert "next and previous scan" in dialog.text


def test_a_strip_is_walked_by_keyboard(driver, report):
    visit(driver, report / "cohort.html")
    canvas = driver.find_element(By.CSS_SELECTOR, "canvas[data-metric=mask_volume_ml]")
    canvas.send_keys(Keys.HOME)
    lowest = canvas.get_attribute("aria-valuetext")
    canvas.send_keys(Keys.ARROW_RIGHT)
    second = canvas.get_attribute("aria-valuetext")
    volumes = [float(re.search(r": ([\d.]+)", said)[1]) for said in (lowest, second)]
    assert volumes == sorted(volumes)
    assert lowest != second
    canvas.send_keys(Keys.ENTER)
    arrive(driver, second.split(":")[0])


def test_a_picture_that_stands_twice_is_shown_twice(driver, report):
    visit(driver, report / "scans" / "sub-05_ses-1.html")
    again = driver.find_elements(By.CSS_SELECTOR, "img[data-same]")
    assert len(again) >= 3
    assert all(driver.execute_script("return arguments[0].naturalWidth", image) for image in again)


def test_a_switch_puts_differences_on_the_scale_of_their_own_query(driver, report):
    visit(driver, report / "counterfactuals.html")
    figures = driver.find_elements(By.CSS_SELECTOR, "figure:has(img.shared)")
    changing_less = [each for each in figures if each.find_elements(By.CSS_SELECTOR, "img.own")]
    assert 0 < len(changing_less) < len(figures)  # the query that sets the scale has no other
    most = next(each for each in figures if each not in changing_less)
    shared, own = (changing_less[0].find_element(By.CSS_SELECTOR, f"img.{kind}") for kind in ("shared", "own"))
    assert (shared.is_displayed(), own.is_displayed()) == (True, False)
    changing_less[0].find_element(By.CSS_SELECTOR, "[data-scale]").click()
    assert (shared.is_displayed(), own.is_displayed()) == (False, True)
    assert most.find_element(By.CSS_SELECTOR, "img.shared").is_displayed()


def test_on_paper_nothing_is_folded_away_or_cut_off(driver, report):
    visit(driver, report / "evaluation.html")
    driver.execute_script(
        """
        addEventListener("beforeprint", () => {
          window.folded = document.querySelectorAll("details:not([open])").length;
        });
        """
    )
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    assert driver.execute_script("return window.folded") == 0
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        visit(driver, report / "scm.html")
        resize(driver, 720)
        cut = driver.execute_script(
            """
            return [...document.querySelectorAll(".scroll, .picture, .rows, pre")]
              .filter(area => getComputedStyle(area).overflowX !== "visible").length
            """
        )
        assert cut == 0
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 720
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def find_axe() -> Path | None:
    """axe-core, the checker of accessibility, which this package for another browser driver carries as one file."""
    package = importlib.util.find_spec("axe_playwright_python")
    found = Path(package.origin).parent / "axe.min.js" if package and package.origin else None
    return found if found and found.exists() else None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_nothing_on_any_page(driver, report, report_of_a_bundle, scheme, width):
    axe = find_axe()
    if axe is None:
        pytest.skip(
            "THE REPORT'S ACCESSIBILITY IS NOT TESTED: axe-playwright-python is missing (make test installs it)"
        )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.set_script_timeout(120)
    resize(driver, width)
    try:
        for path in [*pages_of(report), *pages_of_a_bundle(report_of_a_bundle)]:
            visit(driver, path)
            driver.execute_script(axe.read_text())
            found = driver.execute_async_script(
                """
                for (const each of document.querySelectorAll("details")) each.open = true;
                const done = arguments[0];
                axe.run({ resultTypes: ["violations"] }).then(({ violations }) => done(violations.map(
                  each => `${each.id}: ${each.nodes.length} × ${each.nodes[0].html.slice(0, 120)}`)));
                """
            )
            assert found == [], f"{path.name}, {scheme}, {width} px"
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_arrows_of_the_chosen_question_are_shown(driver, report):
    visit(driver, report / "cohort.html")
    shown = "return [...new Set([...document.querySelectorAll('[data-query]')].filter(each => getComputedStyle(each)"
    shown += ".display !== 'none').map(each => each.dataset.query))]"
    assert driver.execute_script(shown) == ["older-by-20"]
    chosen = Select(driver.find_element(By.ID, "arrows"))
    chosen.select_by_visible_text("man")
    assert driver.execute_script(shown) == ["man"]
    chosen.select_by_visible_text("none")
    assert driver.execute_script(shown) == []


def test_snakemakes_own_report_holds_all_pages_and_their_links_work(driver, report, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    stubbed_checkout(checkout)
    copy = f"import shutil\nshutil.copytree({str(report)!r}, snakemake.output[0], dirs_exist_ok=True)\n"
    (checkout / "scripts" / "render_report.py").write_text(copy)
    study = indexed_study(tmp_path, checkout)
    for arguments in ((), ("--report", str(tmp_path / "report.zip"))):
        done = run_workflow(tmp_path, study, *arguments, checkout=checkout)
        assert done.returncode == 0, done.stdout
    with ZipFile(tmp_path / "report.zip") as archive:
        archive.extractall(tmp_path)

    visit(driver, tmp_path / "report" / "report.html")
    (category,) = [each for each in driver.find_elements(By.CSS_SELECTOR, "li") if each.text.strip() == "Report"]
    category.click()
    driver.find_element(By.XPATH, "//tr[contains(., 'index.html')]").find_element(By.TAG_NAME, "a").click()
    WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.TAG_NAME, "iframe"))
    driver.switch_to.frame(driver.find_element(By.TAG_NAME, "iframe"))
    driver.find_element(By.LINK_TEXT, "Cohort").click()
    WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.ID, "scans-table"))
    driver.find_element(By.CSS_SELECTOR, "#scans-table tbody a").click()
    WebDriverWait(driver, 20).until(lambda d: d.find_element(By.TAG_NAME, "h1").text == "sub-03_ses-1")
    driver.switch_to.default_content()


def test_letters_typed_into_the_search_are_not_keys(driver, report):
    visit(driver, report / "cohort.html")
    driver.find_element(By.ID, "scans-search").send_keys("jkfx")
    assert driver.current_url.endswith("cohort.html#q=jkfx")
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


def test_no_chart_cuts_off_its_words_or_lays_them_over_one_another(driver, report, report_of_a_bundle):
    """Charts are as wide as the page or narrower, so that one width stands for all."""
    for path in [*pages_of(report), *pages_of_a_bundle(report_of_a_bundle)]:
        visit(driver, path)
        found = driver.execute_script(
            """
            for (const each of document.querySelectorAll("details")) each.open = true;
            const found = [];
            for (const chart of document.querySelectorAll("svg.chart")) {
              const frame = chart.getBoundingClientRect();
              const words = [...chart.querySelectorAll("text")].filter(each => !each.hasAttribute("transform"))
                .map(each => [each.textContent, each.getBoundingClientRect()]).filter(([, box]) => box.width);
              words.forEach(([text, box], at) => {
                const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top,
                  box.bottom - frame.bottom);
                if (out > 2) found.push(`cut off: ${text}`);
                for (const [other, beside] of words.slice(at + 1)) {
                  const wide = Math.min(box.right, beside.right) - Math.max(box.left, beside.left);
                  const high = Math.min(box.bottom, beside.bottom) - Math.max(box.top, beside.top);
                  if (wide > 1 && high > 3) found.push(`${text} lies over ${other}`);
                }
              });
            }
            return found;
            """
        )
        assert found == [], path.name


@pytest.mark.parametrize("width", [360, 900, 1400])
def test_no_page_is_wider_than_the_window(driver, report, report_of_a_bundle, width):
    resize(driver, width)
    try:
        for path in [*pages_of(report), *pages_of_a_bundle(report_of_a_bundle)]:
            visit(driver, path)
            found = driver.execute_script("return document.documentElement.scrollWidth")
            assert found <= width, path.name
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_movement_in_the_wrong_direction_is_seen_in_a_narrow_window(driver, report):
    resize(driver, 390)
    try:
        visit(driver, report / "counterfactuals.html")
        warned = driver.find_elements(By.XPATH, "//td/strong[text()='wrong way'] | //th/strong[text()='wrong way']")
        ends = [each.rect["x"] + each.rect["width"] for each in warned if each.is_displayed()]
        assert ends
        assert max(ends) <= 390
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
