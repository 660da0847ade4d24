"""The report of a made-up study: complete, offline, and honest about what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import made_up_study
from brainscm.report.pages import cohort, evaluation, methods, scan
from brainscm.report.render import PAGES, render_report
from brainscm.report.study import Study
from brainscm.report.words import signed


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    config = made_up_study.make_study(folder, people=15)
    made_up_study.write_evaluation(folder, made_up_study.open_study(folder, config))
    return Study.read(folder, config, made_up_study.table_paths(folder))


@pytest.fixture(scope="module")
def report(study) -> Path:
    folder = study.results / "report"
    (folder / "scans").mkdir(parents=True)
    (folder / "scans" / "sub-gone.html").write_text("a page of an earlier run, whose scan is gone")
    render_report(study, made_up_study.open_gallery(study.results, study), folder, threads=2)
    return folder


class Page(HTMLParser):
    """Collects what a page refers to, its pictures' descriptions, and its visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.undescribed = 0
        self.text = ""
        self._hidden = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self._hidden = tag in ("style", "script")
        if tag == "a":
            self.links.append(found["href"])
        if "src" in found or tag == "link":
            self.sources.append(found.get("src") or found["href"])
        if (tag == "img" and not found.get("alt")) or (found.get("role") == "img" and not found.get("aria-label")):
            self.undescribed += 1

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text += data


def test_every_page_and_every_scan_is_there(report, study):
    assert {path.name for path in report.glob("*.html")} == set(PAGES)
    assert {path.stem for path in (report / "scans").glob("*.html")} == set(study.scans["scan"])


def test_pages_are_complete_in_themselves(report):
    for path in report.rglob("*.html"):
        page = Page(path)
        assert all(source.startswith("data:") for source in page.sources), path.name
        assert page.undescribed == 0, path.name
        outside = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//[^\"')\s]+", path.read_text())
        assert outside == [], path.name


def test_no_link_leads_nowhere(report):
    for path in report.rglob("*.html"):
        for link in Page(path).links:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or f'id="{anchor}"' in target.read_text(), f"{path.name}: {link}"


def test_a_scan_page_stays_small(report):
    assert max(path.stat().st_size for path in (report / "scans").glob("*.html")) < 1_000_000


def test_a_failed_scan_has_a_page_that_says_why(report):
    page = Page(report / "scans" / "sub-03_ses-1.html")
    assert "the file is cut short; copy it again" in page.text
    assert "No pictures" in page.text
    assert not page.sources[1:]  # the icon alone


def test_the_overview_names_failures_and_limits(report):
    text = Page(report / "index.html").text
    assert "the file is cut short" in text
    assert "no T1w file in the BIDS folder" in text
    assert "not a diagnosis" in text
    assert "causal only as far as the declared graph is right" in text


def test_the_overviews_failures_have_a_shape_beside_their_colour(report):
    html = (report / "index.html").read_text()
    assert re.search(r'<td class=""><span class="status fail"><svg [^>]*>.*?</svg>fail</span></td>', html)
    assert '<span class="status none">left out of everything</span>' in html


def test_a_scan_page_shows_its_counterfactuals_and_warns_of_extrapolation(report, study):
    beyond = study.made[study.made["extrapolation"].astype(bool)].iloc[0]
    page = Page(report / "scans" / f"{beyond['scan']}.html")
    assert beyond["warning"] in page.text
    assert "age 20 years higher" in page.text
    assert len(page.sources) > 10


def test_neighbours_follow_the_order_of_the_scans(report, study):
    names = list(study.rows)
    html = (report / "scans" / f"{names[1]}.html").read_text()
    assert f'rel="prev" href="{names[0]}.html"' in html
    assert f'rel="next" href="{names[2]}.html"' in html
    assert 'rel="prev"' not in (report / "scans" / f"{names[0]}.html").read_text()


def test_standing_counts_the_share_below_and_the_robust_distance(study):
    snr = [1.0, 2.0, 3.0, 4.0, 100.0]
    values = pd.DataFrame({"scan": list("abcde"), "status": "pass", "split": "train", "snr": snr})
    alone = replace(study, scans=values[["scan", "split"]], qc=values[["scan", "status", "snr"]])
    percentile, z = alone.standing({"snr": 100.0}, "snr")
    assert percentile == 90
    assert z == pytest.approx(97 / 1.4826)


def test_users_text_is_shown_not_run(study):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    qc = study.qc.assign(reasons=hostile)
    data = cohort.context(replace(study, qc=qc))["scans_data"]
    assert "<" not in data
    assert json.loads(data)["rows"][0][-1] == hostile


def test_ten_thousand_scans_fit_the_group_page(study):
    count = 10_000
    scans = pd.concat([study.scans] * (count // len(study.scans) + 1)).head(count).reset_index(drop=True)
    scans["scan"] = [f"sub-{number:05d}_ses-baseline" for number in range(count)]
    qc = pd.concat([study.qc] * (count // len(study.qc) + 1)).head(count).assign(scan=scans["scan"].to_numpy())
    data = cohort.context(replace(study, scans=scans, qc=qc))["scans_data"]
    assert len(json.loads(data)["rows"]) == count
    assert len(data) < 10_000_000


def test_a_study_without_truth_counterfactuals_or_pictures_still_has_its_report(study, tmp_path):
    measures = [key for key in study.summary["methods"]["latent_glm"] if key != "why_null"]
    nothing = {**dict.fromkeys(measures), "why_null": dict.fromkeys(measures, "no truth")}
    unknown = dict.fromkeys(study.summary["methods"], nothing)
    bare = replace(
        study,
        config=study.config.model_copy(update={"counterfactuals": []}),
        history=study.history.head(0),
        reconstruction=study.reconstruction.head(0),
        nodes=study.nodes.head(0),
        tests=study.tests.head(0),
        diagnostics=study.diagnostics.head(0),
        regional_effects=study.regional_effects.head(0),
        manifest=study.manifest.head(0),
        metrics=study.metrics.head(0),
        regional_slopes=study.regional_slopes.head(0),
        minimality=study.minimality.head(0),
        realism=study.realism.head(0),
        excluded=study.excluded.head(0),
        summary={"reconstruction": {"psnr_brain_db": None, "ssim_brain": None}, "methods": unknown},
    )
    render_report(bare, None, tmp_path)
    assert "could not be measured: no truth" in Page(tmp_path / "index.html").text
    assert "There is no known answer to compare with." in Page(tmp_path / "evaluation.html").text
    assert "No query is listed" in Page(tmp_path / "counterfactuals.html").text


def test_methods_say_whether_left_and_right_were_found_to_differ(study):
    assert methods.context(study)["sides_differ"] is None  # nobody compared them
    row = {"check": "sides_differ", "item": "image", "value": 0.0, "warning": None}
    compared = replace(study, diagnostics=pd.concat([study.diagnostics, pd.DataFrame([row])]))
    assert methods.context(compared)["sides_differ"] is False


def test_a_lost_volume_costs_one_picture_and_says_so(study):
    gallery = made_up_study.open_gallery(study.results, study)
    row = study.rows[study.made["scan"].iloc[0]] | {"preproc_t1w": "gone.nii.gz"}
    context = scan.context(study, gallery, row)
    assert context["reconstruction"] is None
    assert "gone.nii.gz" in context["why_no_reconstruction"]


def test_methods_table_shows_the_summarys_figures(study):
    (simulated, *_) = evaluation.context(study)["truths"]
    shown = next(row for row in simulated["rows"] if row["_class"] == "best")["change_correlation"]
    assert shown.startswith(f"{study.summary['methods']['latent_glm']['change_correlation']:.2f}")
    assert simulated["few"]


def test_the_matrix_shows_each_excess_beside_its_noise_floor(study):
    matrix = evaluation.context(study)["matrix"]
    own = study.minimality[(study.minimality["method"] == "latent_glm") & (study.minimality["decode"] == "residual")]
    cell = own[(own["query"] == "older-by-20") & (own["region"] == "gm")].iloc[0]
    shown = next(row for row in matrix["rows"] if row["query"] == "older-by-20, total effect")["gm"]
    assert signed(f"{cell['excess_ml']:+.1f}") in shown
    assert signed(f"{cell['expected_ml']:+.1f}") in shown
    assert ("<strong>" in shown) == cell["beyond_noise"]
    assert matrix["rows"][-1]["gm"] == f"{cell['noise_ml']:.1f}"
