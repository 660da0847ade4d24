"""The report of a made-up study: complete, offline, and honest about what is missing."""

from __future__ import annotations

import json
import platform
import re
import shutil
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Literal, get_args, get_origin

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

import made_up_study
from brainscm.config import AutoencoderOptions, Config, ImageOptions, PreprocessOptions
from brainscm.regions import Geometry
from brainscm.report import pictures, render, words
from brainscm.report.assets import NIIVUE
from brainscm.report.badges import badge_names
from brainscm.report.changes import Change
from brainscm.report.methods_text import methods_text
from brainscm.report.pages import causal_model, cohort, counterfactuals, evaluation, overview, scan, training
from brainscm.report.references import REFERENCES
from brainscm.report.render import PAGES, Page, render_report
from brainscm.report.study import Study
from brainscm.report.words import number, signed
from brainscm.scans import QC_REASONS
from brainscm.scm.refutation import COLUMNS as REFUTED
from brainscm.shards import Shard
from brainscm.tables import read_table, write_table
from brainscm.training.fidelity import psnr

pytestmark = pytest.mark.slow

TARGETS = ("preprocess", "train", "latents", "scm", "counterfactuals", "evaluation", "report")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    config = made_up_study.make_study(folder, participants=15)
    made_up_study.write_evaluation(folder, made_up_study.open_study(folder, config))
    return Study.read(folder, config)


@pytest.fixture(scope="module")
def report(study) -> Path:
    folder = study.results / "report"
    (folder / "scans").mkdir(parents=True)
    (folder / "scans" / "sub-gone.html").write_text("a page of an earlier run, whose scan is gone")
    render_report(study, made_up_study.open_gallery(study), folder, threads=2)
    return folder


class Written(HTMLParser):
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


def with_rows(study: Study, rows: pd.DataFrame) -> Study:
    """The study with another table of scans, of which all can be used but those that could not be before."""
    unusable = study.scans.unusable.reindex(rows.index).fillna("")
    return replace(study, scans=replace(study.scans, rows=rows, unusable=unusable))


def with_one_answer_less(study: Study) -> tuple[Study, str]:
    """The study in which the first query could not be answered for one scan, and that scan."""
    manifest = study.manifest.astype({"reason": object})
    first = manifest.index[manifest["query"] == "older-by-20"][0]
    manifest.loc[first, ["path", "reason"]] = [None, "it could not be decoded"]
    return replace(study, manifest=manifest), str(manifest.loc[first, "scan"])


def test_every_page_and_every_scan_is_there(report, study):
    closer = {"viewer.html"} if NIIVUE.exists() else set()
    assert {path.name for path in report.glob("*.html")} == {page.file for page in PAGES} | closer
    assert {path.stem for path in (report / "scans").glob("*.html")} == set(study.scans.rows["scan"])


def test_pages_are_complete_in_themselves(report):
    for path in report.rglob("*.html"):
        page = Written(path)
        own = {NIIVUE.name} if path.name == "viewer.html" else set()
        assert all(source.startswith("data:") or source in own for source in page.sources), path.name
        assert page.undescribed == 0, path.name
        outside = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//[^\"')\s]+", path.read_text())
        assert outside == [], path.name


def test_no_link_leads_nowhere(report):
    for path in report.rglob("*.html"):
        for link in Written(path).links:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or f'id="{anchor}"' in target.read_text(), f"{path.name}: {link}"


def test_the_overview_is_written_last(report):
    written = {path: path.stat().st_mtime_ns for path in report.rglob("*.html")}
    assert max(written, key=written.__getitem__).name == "index.html"


def test_a_new_page_is_a_module_and_a_line(study, tmp_path, monkeypatch):
    """What docs/extending.md says: `context` of a module, the page's line in PAGES, and a template."""
    assets = shutil.copytree(render.ASSETS, tmp_path / "assets")
    (assets / "templates" / "splits.html.j2").write_text(
        '{% extends "base.html.j2" %}{% block main %}<p>{{ trained_on }} training scans</p>{% endblock %}'
    )

    def context(study, gallery):
        return {"trained_on": len(study.scans.of_split("train"))}

    monkeypatch.setattr(render, "TEMPLATES", assets / "templates")
    monkeypatch.setattr(render, "PAGES", (*PAGES, Page("splits.html", "Splits", context)))
    render_report(study, None, tmp_path / "report")
    text = Written(tmp_path / "report" / "splits.html").text
    assert f"{len(study.scans.of_split('train'))} training scans" in text
    assert "splits.html" in Written(tmp_path / "report" / "cohort.html").links
    (here,) = re.findall('<a href="([^"]+)" aria-current="page">', (tmp_path / "report" / "splits.html").read_text())
    assert here == "splits.html"


def test_an_encoder_that_the_report_has_no_words_for_goes_by_its_name(study, tmp_path, monkeypatch):
    options = study.config.autoencoder.model_copy(update={"kind": "coarse"})
    other = replace(study, config=study.config.model_copy(update={"autoencoder": options}))
    assert training.context(other, None)["lead"].startswith("Brains are encoded by the encoder coarse, fitted on")
    monkeypatch.setattr(render, "PAGES", [page for page in PAGES if page.title == "Methods"])
    render_report(replace(other, scans=replace(other.scans, rows=other.scans.rows[:0])), None, tmp_path)
    text = " ".join(Written(tmp_path / "methods.html").text.split())
    assert "Scans were encoded by the encoder coarse, fitted on the training split" in text


def test_a_scan_page_stays_small(report):
    assert max(path.stat().st_size for path in (report / "scans").glob("*.html")) < 1_000_000


def test_a_failed_scan_has_a_page_that_says_why(report):
    page = Written(report / "scans" / "sub-03_ses-1.html")
    assert "the file is cut short; copy it again" in page.text
    assert "No pictures" in page.text
    assert not page.sources[1:]  # the icon alone


def test_a_failed_scan_names_its_file_in_the_data_set_and_the_command_that_does_it_again(study, tmp_path):
    bids = study.results / "bids"
    run = {"command": "snakemake report --cores 8 --configfile 'my study.yaml' --keep-going"}
    (tmp_path / "run.json").write_text(json.dumps(run))
    config = study.config.model_copy(update={"bids_dir": bids, "output_dir": Path("results")})
    told = scan.context(replace(study, config=config, results=tmp_path), None, study.rows["sub-03_ses-1"])
    assert told["raw"] == "sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz"
    wanted = "snakemake results/preproc/status/sub-03_ses-1.json --force --cores 1 --configfile 'my study.yaml'"
    assert told["redo"] == wanted


def test_every_figure_tells_the_file_and_the_command_behind_it(report, study):
    """In it, or right after the charts that it is one of."""
    for path in report.rglob("*.html"):
        html = re.sub(r"<script.*?</script>", "", path.read_text(), flags=re.DOTALL)
        charts = re.sub(
            r'<div class="(?:charts|multiples)">.*?</div>\s*(?:<p class="note">.*?</p>)?', "‖", html, flags=re.DOTALL
        )
        assert len(re.findall(r'‖\s*<p class="behind">', charts)) == charts.count("‖"), path.name
        for figure in re.findall(r"<figure.*?</figure>", charts, flags=re.DOTALL):
            assert '<p class="behind">' in figure, f"{path.name}: {figure[:200]}"
        for viewer in re.findall(r'<section class="viewer".*?</section>', html, flags=re.DOTALL):
            assert '<p class="behind">' in viewer, path.name
        for behind in re.findall(r'<p class="behind">(.*?)</p>', html, flags=re.DOTALL):
            *files, command = re.findall(r"<code>(.*?)</code>", behind)
            assert all((study.results / file).exists() for file in files), behind
            assert command.removeprefix("snakemake ") in TARGETS, behind


def test_a_warned_measure_stands_first_with_its_limit(study):
    rows = study.scans.rows.assign(mask_volume_ml=1400.0)
    rows.loc["sub-05_ses-1", "mask_volume_ml"] = 2100.0
    odd = with_rows(study, rows)
    (first, *others) = scan.context(odd, None, odd.rows["sub-05_ses-1"])["measures"]
    assert (first["label"], first["_class"]) == ("Intracranial volume", "warn")
    assert Markup(first["value"]).striptags() == "2,100 ml warn outside 950–2050"
    assert all("warn" not in str(each["value"]) for each in others)


def test_a_scan_that_was_asked_nothing_is_shown_beside_its_reconstruction(study, report):
    scan = next(scan for scan in study.usable["scan"] if scan not in set(study.manifest["scan"]))
    stack = made_up_study.open_gallery(study).stack(scan, [], scan)
    assert [layer.name for layer in stack.layers] == ["scan", "reconstruction", "reconstruction − scan"]
    assert (stack.over, stack.under) == ("reconstruction − scan", "scan")
    page = (report / "scans" / f"{scan}.html").read_text()
    assert 'id="viewer"' in page


def test_a_stack_holds_reconstruction_and_truth_and_says_how_far_the_data_can_answer(study):
    gallery = made_up_study.open_gallery(study)
    item = study.made[study.made["query"] == "older-by-20"].iloc[0].to_dict()
    stack = gallery.stack(item["scan"], [item], "name")
    layers = {layer.name: layer for layer in stack.layers}
    assert list(layers) == [
        "scan", "older-by-20", "older-by-20 − scan", "uncertainty of older-by-20", "truth of older-by-20",
        "truth of older-by-20 − scan", "reconstruction",
    ]  # fmt: skip
    assert layers["older-by-20 − scan"].about == "extrapolation, few near"
    # The drawn brain of the same participant, twenty years older.
    row = study.rows[item["scan"]]
    older, _ = made_up_study.draw_brain(row["age"] + 20, np.random.default_rng(int(row["participant"][-2:])))
    shown = layers["truth of older-by-20"].voxels * pictures.WHITE / 255
    assert np.abs(shown - older[gallery.cuts.box].clip(0, pictures.WHITE)).mean() < 0.02
    raw = Path(study.truths[item["scan"], "older-by-20"])
    moved = raw.rename(raw.with_suffix(".gone"))
    assert gallery.truth(item["scan"], "older-by-20") is None
    moved.rename(raw)


def test_a_later_scan_is_the_truth_beside_what_was_expected_of_it(study, report):
    gallery = made_up_study.open_gallery(study)
    first, later = "sub-15_ses-1", "sub-15_ses-2"
    (found,) = gallery.follow_ups(first)
    assert (found.later, found.years, found.name) == (later, pytest.approx(4.0), "4.0 years later (ses-2)")
    # The volume is the one that the evaluation has scored.
    rows = study.metrics[(study.metrics["source"] == "follow-up") & (study.metrics["level"] == "scan")]
    scored = rows[(rows["method"] == "latent_glm") & (rows["decode"] == "residual")].set_index("metric")["value"]
    inside, second = gallery.mask(first), gallery.volume(later)
    assert psnr(found.answer, second, inside) == pytest.approx(scored["psnr_brain_db"], abs=1e-3)
    layers = {layer.name: layer for layer in gallery.stack(first, [], first).layers}
    assert list(layers) == [
        "scan", found.name, f"{found.name} − scan", f"truth of {found.name}", f"truth of {found.name} − scan",
        "reconstruction",
    ]  # fmt: skip
    assert layers[found.name].about == "extrapolation, few near, not calibrated"  # of one participant nothing is known
    shown = layers[f"truth of {found.name}"].voxels * pictures.WHITE / 255
    assert np.abs(shown - (second * inside)[gallery.cuts.box].clip(0, pictures.WHITE)).max() < 0.01
    page = Written(report / "scans" / f"{first}.html")
    assert "4.0 years later (ses-2): truth known" in page.text
    unchanged = rows[rows["method"] == "persistence"].set_index("metric")["value"]["psnr_brain_db"]
    told = f"PSNR of {scored['psnr_brain_db']:.1f} dB in the brain, the first scan as it is {unchanged:.1f} dB"
    assert told in page.text
    assert f"{later}.html" in page.links
    assert "truth known" not in Written(report / "scans" / f"{later}.html").text


def test_the_reconstruction_that_is_shown_is_the_one_that_was_kept(study):
    gallery = made_up_study.open_gallery(study)
    name = study.usable["scan"].iloc[0]
    path = study.reconstructions / f"{name}_desc-reconstruction_T1w.nii.gz"
    kept = np.asarray(nib.load(path).dataobj)
    difference = (kept - gallery.volume(name)) * gallery.mask(name)
    shown = gallery.reconstruction(name)
    assert shown["difference"] == pictures.signed(difference, gallery.cuts, gallery.mask(name), 0.3)
    assert shown["file"] == str(path.relative_to(study.results))


def test_centiles_are_spoken_of_where_they_are_drawn(study, report):
    assert "too few training participants for centiles" in Written(report / "cohort.html").text
    rows = study.scans.rows
    many = pd.concat([rows.assign(scan=rows["scan"] + n, participant=rows["participant"] + n) for n in "abcdefgh"])
    many = many.assign(split="train").set_index("scan", drop=False).rename_axis(None)
    shown = cohort.context(with_rows(study, many), None)["volumes"]
    assert shown["has_centiles"]
    assert "<polygon" in shown["charts"][0]["drawing"]


def test_designs_and_residuals_of_each_node_are_drawn(study):
    context = causal_model.context(study, None)
    assert [design["name"] for design in context["designs"]] == ["image", "ventricles"]
    assert "r = " in context["designs"][0]["correlations"]
    item, *of_regions = context["residuals"]
    assert [each["node"] for each in of_regions][:2] == ["image: grey matter", "image: white matter"]
    assert all(each["quantiles"].count("<circle") > 5 for each in of_regions)
    own = study.residuals[study.residuals["model"] == "ventricles"]
    for drawing in (item["fitted"], item["quantiles"]):
        assert drawing.count("<circle") == len(own)
    moving = own.loc[own["cooks_distance"].idxmax(), "participant"]
    assert item["moved"].startswith(f"{moving} moves the fit most")


def test_who_alone_moves_coefficients_is_named_once_with_all_that_they_move(study):
    names = {"image: gm": "grey matter", "image: wm": "white matter", "ventricles": "ventricles (the node)"}
    rows = [("max_cooks_distance", item, 9.0, "one participant") for item in names]
    found = pd.DataFrame(rows, columns=["check", "item", "value", "warning"])
    own = study.residuals.assign(cooks_distance=0.1)
    first, second = own["participant"].unique()[:2]
    own.loc[(own["participant"] == first) & own["measure"].isin(["gm", "wm"]), "cooks_distance"] = 1.5
    own.loc[(own["participant"] == second) & (own["model"] == "ventricles"), "cooks_distance"] = 2.5
    others = study.diagnostics[study.diagnostics["check"] != "max_cooks_distance"]
    told = causal_model.context(replace(study, diagnostics=pd.concat([others, found]), residuals=own), None)
    assert told["findings"][-2:] == [
        f"{first} alone moves the coefficients of grey matter and white matter by much (Cook’s distance up to 1.5).",
        f"{second} alone moves the coefficients of ventricles (the node) by much (Cook’s distance 2.5).",
    ]
    # Beside a bundle, which holds no residuals of its participants.
    beside = replace(study, diagnostics=pd.concat([others, found]), residuals=study.residuals.iloc[:0])
    assert causal_model.context(beside, None)["findings"][-1] == (
        "One participant alone moves the coefficients of grey matter, white matter and ventricles (the node) by much "
        "(Cook’s distance up to 9)."
    )


def test_an_effect_map_has_its_clusters_at_every_threshold(study):
    gallery = made_up_study.open_gallery(study)
    maps = causal_model.context(study, gallery)["maps"]
    assert [layer.name for layer in maps["stack"].layers] == ["Drawn", "ageing", "ageing, direct"]
    tables = json.loads(maps["tables"])["tables"]["ageing"]
    volumes = [sum(float(row["volume"]) for row in table["rows"]) for table in tables]
    assert len(volumes) == 9
    assert volumes[0] > volumes[4] > 0
    assert maps["rows"] == tables[maps["first"] - 1]["rows"]


def test_one_paragraph_tells_the_numbers_by_stage_the_command_and_the_date(study, tmp_path):
    (tmp_path / "run.json").write_text('{"command": "snakemake --cores 3 --configfile x.yaml"}')
    text = methods_text(replace(study, results=tmp_path)).text
    paragraph = " ".join(text.partition("## In one paragraph")[2].partition("##")[0].split())
    splits = study.usable["split"].value_counts()
    assert f"({splits['train']} to train, {splits['validation']} to validate, {splits['test']} to test)" in paragraph
    assert f"fitted on {len(study.sample)} training scans and answered 2 questions with 8 counterfactuals" in paragraph
    assert "`snakemake --cores 3 --configfile x.yaml`" in paragraph
    assert "(shrinkage `none`, errors `ordinary`, repeated scans `cluster`, missing covariates `" in paragraph
    assert f"with Python {platform.python_version()}, antspyx " in paragraph
    assert date.today().isoformat() in paragraph


def test_the_overview_names_failures_and_limits(report):
    text = Written(report / "index.html").text
    assert "the file is cut short" in text
    assert "no T1w file in the BIDS folder" in text
    assert "not a diagnosis" in text
    assert "causal only as far as the declared graph is right" in text


def test_the_overview_counts_scans_and_lists_those_that_failed_before_those_left_out(study):
    context = overview.context(study, None)
    assert context["lead"].startswith("20 scans of 15 participants, ")
    assert (context["figures"][0]["value"], context["figures"][0]["note"]) == ("18", "of 20 indexed; 2 failed")
    listed = [(Markup(row["scan"]).striptags(), row["status"]) for row in context["failures"]]
    assert listed == [
        ("sub-03_ses-1", "fail"),
        ("sub-03_ses-2", "fail"),
        ("sub-90", "left out of everything"),
        ("sub-02_ses-1", "left out of scm"),
    ]
    assert context["failures"][0]["reason"] == "the file is cut short; copy it again"


def test_paths_begin_at_the_data_set(study):
    bids = study.results / "bids"
    config = study.config.model_copy(update={"bids_dir": bids})
    rows = study.scans.rows.assign(**{QC_REASONS: f"{bids}/sub-03/anat/sub-03_T1w.nii.gz: cannot be read"})
    named = replace(with_rows(study, rows), config=config)
    shown = "sub-03/anat/sub-03_T1w.nii.gz: cannot be read"
    assert scan.context(named, None, named.rows["sub-03_ses-1"])["reasons"] == shown
    assert overview.context(named, None)["failures"][0]["reason"] == shown
    data = json.loads(cohort.context(named, None)["scans_data"])
    assert data["rows"][0][3] == shown


def test_the_overview_names_so_many_failures_and_counts_the_others(study):
    rows = [{"scan": f"sub-{i}", "path": None, "excluded_from": "everything", "reason": "no T1w"} for i in range(30)]
    context = overview.context(replace(study, excluded=pd.DataFrame(rows)), None)
    assert len(context["failures"]) == overview.FAILURES_SHOWN
    assert context["more_failures"] == 32 - overview.FAILURES_SHOWN


def test_the_overview_counts_each_querys_answers(study):
    lacking, _ = with_one_answer_less(study)
    known = replace(lacking, manifest=lacking.manifest.assign(extrapolation=False))
    asked = {row["name"].striptags(): row for row in overview.context(known, None)["questions"]}
    assert (asked["older-by-20"]["made"], asked["older-by-20"]["failed"]) == (3, 1)
    assert (asked["man"]["made"], asked["man"]["failed"], asked["man"]["extrapolated"]) == (4, 0, 0)


def test_the_overviews_failures_have_a_shape_beside_their_colour(report):
    html = (report / "index.html").read_text()
    assert re.search(r'<td class=""><span class="status fail"><svg [^>]*>.*?</svg>fail</span></td>', html)
    assert '<span class="status none">left out of everything</span>' in html


def test_a_scan_page_shows_its_counterfactuals_and_warns_of_extrapolation(report, study):
    beyond = study.made[study.made["extrapolation"].astype(bool)].iloc[0]
    page = Written(report / "scans" / f"{beyond['scan']}.html")
    assert beyond["warning"] in page.text
    assert "age 20 years higher" in page.text
    assert len(page.sources) > 7


def test_neighbours_follow_the_order_of_the_scans(report, study):
    names = study.worst_first
    html = (report / "scans" / f"{names[1]}.html").read_text()
    assert f'rel="prev" href="{names[0]}.html">' in html
    assert f'rel="next" href="{names[2]}.html">' in html
    assert f'rel="prev" href="{names[0]}.html" hidden>' in (report / "scans" / f"{names[0]}.html").read_text()


def test_scans_come_worst_first(study):
    rows = study.scans.rows.copy()
    rows.loc["sub-09_ses-1", "mask_volume_ml"] = 20 * rows["mask_volume_ml"].median()
    order = with_rows(study, rows).worst_first
    assert order[:4] == ["sub-03_ses-1", "sub-03_ses-2", "sub-05_ses-1", "sub-09_ses-1"]
    assert study.worst_first[:3] == order[:3]  # two failed, one with a warning
    assert sorted(order) == sorted(study.rows)


def test_among_warned_scans_the_one_furthest_beyond_its_limit_comes_first(study):
    """Also where most scans have none of a measure, so that no spread tells how far out a scan stands."""
    passed = [scan for scan in study.worst_first if study.rows[scan]["qc_status"] == "pass"]
    little, much, low = passed[:3]
    rows = study.scans.rows.assign(holes_ml=0.0, cnr=3.0, ncc=0.9)
    rows.loc[[little, much, low], "qc_status"] = "warn"
    rows.loc[[little, much], "holes_ml"] = [20.0, 150.0]  # warns above 5, fails above 200
    rows.loc[low, "cnr"] = 1.3  # warns below 1.8, fails below 0.8
    rows.loc["sub-03_ses-2", "ncc"] = 0.05  # fails below 0.2, without a warning before
    odd = with_rows(study, rows)
    odd = replace(odd, scans=replace(odd.scans, measured=(*study.scans.measured, "holes_ml", "cnr", "ncc")))
    assert odd.standing_out[much].measure != "holes_ml"
    assert [odd.beyond_limits[scan] for scan in (little, much, low)] == pytest.approx([15 / 195, 145 / 195, 0.5])
    warned = [scan for scan in odd.worst_first if odd.rows[scan]["qc_status"] == "warn"]
    assert warned == [much, low, little, "sub-05_ses-1"]
    assert odd.beyond_limits["sub-03_ses-1"] == float("inf")  # nothing of it could be measured
    assert odd.beyond_limits["sub-03_ses-2"] == pytest.approx(0.75)  # of its limit


def test_the_cohort_page_follows_scans_from_files_to_the_model(report):
    text = Written(report / "cohort.html").text
    flow = "Flow of scans: 21 found, 20 indexed, 18 preprocessed, 17 with all covariates"
    assert flow in (report / "cohort.html").read_text()
    for lost in ("1 left out by the index", "2 failed", "1 without a covariate of the graph"):
        assert lost in text


def test_the_cohort_page_tells_what_the_index_read_otherwise(report):
    assert "'f' (2 cells) are read as 'F'" in Written(report / "cohort.html").text


def test_the_cohort_page_describes_each_split_by_its_own_scans(study):
    rows = {row["covariate"]: row for row in cohort.context(study, None)["split_rows"]}
    scans = study.scans.rows
    for split in ("train", "validation", "test"):
        part = scans[scans["split"] == split]
        assert rows["scans"][split] == str(len(part))
        assert rows["participants"][split] == str(part["participant"].nunique())
        assert rows["age (years)"][split].endswith(f"({part['age'].min():.3g}–{part['age'].max():.3g})")
        assert rows["sex: F"][split].startswith(f"{(part['sex'] == 'F').sum()} (")
    (drawing, *_) = (chart["drawing"] for chart in cohort.context(study, None)["charts"])
    drawn = dict(re.findall(r">(train|validation|test)</text>.*?n = (\d+)", drawing))
    known = scans[scans["age"].notna()]["split"].value_counts()
    assert {split: int(count) for split, count in drawn.items()} == known.to_dict()


def test_the_cohorts_table_has_every_scan_in_order_under_the_right_headings(study):
    data = json.loads(cohort.context(study, None)["scans_data"])
    keys = [column["key"] for column in data["columns"]]
    assert [row[0] for row in data["rows"]] == study.worst_first
    assert [column["shown"] for column in data["columns"]] == [True] * 12 + [False] * (len(keys) - 12)
    assert keys.index("qc_reasons") == 3
    for row in data["rows"]:
        scan = study.scans.rows.loc[row[0]]
        assert row[keys.index("qc_status")] == scan["qc_status"]
        assert row[keys.index("split")] == scan["split"]
    labels = {column["key"]: column["label"] for column in data["columns"]}
    assert (labels["qc_status"], labels["gm_ml"], labels["age"]) == ("Status", "Grey matter", "age (years)")


def test_users_text_is_shown_not_run(study):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    data = cohort.context(with_rows(study, study.scans.rows.assign(**{QC_REASONS: hostile})), None)["scans_data"]
    assert "<" not in data
    keys = [column["key"] for column in json.loads(data)["columns"]]
    assert json.loads(data)["rows"][0][keys.index("qc_reasons")] == hostile


def test_texts_of_a_config_are_shown_not_run(study, tmp_path):
    hostile = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"{{ 7 * 7 }}"
    given = study.config.model_dump(by_alias=True)
    given["scm"]["nodes"]["age"]["unit"] = given["scm"]["nodes"]["ventricles"]["unit"] = hostile
    given["cohort"] |= {"exclude": [hostile], "filter": {"acquisition": hostile}}
    given["simulation"]["anatomies"] = hostile
    render.render_pages(replace(study, config=Config.model_validate(given)), None, tmp_path)
    pages = [path.read_text() for path in tmp_path.glob("*.html")]
    assert sum("alert(1)" in page for page in pages) > 4
    assert not [page for page in pages if "<script>alert" in page or "<img src=x" in page or "'>\"49" in page]


def test_ten_thousand_scans_fit_the_group_page(study):
    count = 10_000
    rows = study.scans.rows
    rows = pd.concat([rows] * (count // len(rows) + 1)).head(count)
    rows["scan"] = [f"sub-{number:05d}_ses-baseline" for number in range(count)]
    data = cohort.context(with_rows(study, rows.set_index("scan", drop=False).rename_axis(None)), None)["scans_data"]
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
        implications=study.implications.head(0),
        formulas=study.formulas.head(0),
        places=study.places.head(0),
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
    assert "could not be measured: no truth" in Written(tmp_path / "index.html").text
    assert "There is no known answer to compare with." in Written(tmp_path / "evaluation.html").text
    assert "No query is listed" in Written(tmp_path / "counterfactuals.html").text


def test_the_causal_page_says_where_the_data_contradict_the_graph(study):
    rows = [
        {"node": "ventricles", "other": "sex", "given": "age", "statistic": "F", "conflict": True},
        {"node": "image", "other": "sex", "given": "ventricles", "statistic": "F", "conflict": False},
        {"node": "all together", "statistic": "chi2", "p": 1e-6, "conflict": True},
    ]
    table = pd.DataFrame(rows, columns=[*study.implications.columns])
    table.loc[:1, ["p", "p_holm"]] = [[1e-6, 2e-6], [0.4, 0.4]]
    told = causal_model.context(replace(study, implications=table), None)
    assert re.findall(r'class="claim (\w+)"><title>(.*?)</title>', told["graph"]) == [
        ("against", "ventricles should not depend on sex, given age: adjusted p &lt; 0.001"),
        ("held", "image should not depend on sex, given ventricles: adjusted p 0.400"),
    ]
    assert told["graph_findings"][:2] == [
        "The data contradict 1 claim of the 2 that could be tested: draw an arrow, or say why the two go together "
        "otherwise.",
        "Ventricles should not depend on sex, given age, and does (adjusted p < 0.001).",
    ]
    assert len(told["implications"]["rows"]) == 3
    kept = causal_model.context(replace(study, implications=table.iloc[1:2]), None)["graph_findings"]
    assert kept[0].startswith("The data contradict none of the 1 claim that could be tested. That is no proof")


def test_the_causal_page_says_which_simpler_formulas_are_as_good(study):
    rows = [
        {"node": "csf", "aic": 100.0, "held_out_log_likelihood": -3.0},
        {"node": "csf", "simpler": "without sex", "aic": 97.5, "held_out_log_likelihood": -2.9, "p": 0.6},
        {"node": "csf", "simpler": "without age", "aic": 140.0, "held_out_log_likelihood": -4.9, "p": 1e-9},
        {"node": "image", "aic": 50.0, "held_out_r2": 0.2},
        {"node": "image", "simpler": "without sex", "aic": 49.0, "held_out_r2": 0.1},
    ]
    table = pd.DataFrame(rows, columns=[*study.formulas.columns]).assign(held_out_scans=2)
    told = causal_model.context(replace(study, formulas=table), None)["simpler"]
    assert told["sentences"] == [
        "csf, without sex: AIC is smaller by 2.5, and it predicts 2 held-out scans better.",
        "image, without sex: AIC is smaller by 1 (by less than 2 it tells nothing), and it predicts 2 held-out scans "
        "no better.",
    ]
    assert [row["lacks"] for row in told["rows"]][:3] == ["as declared", "without sex", "without age"]
    needed = causal_model.context(replace(study, formulas=table.drop(index=[1, 4])), None)["simpler"]
    assert needed["sentences"] == ["No simpler formula has a smaller AIC."]


def test_the_causal_page_says_which_effects_hold_against_refuters(study, tmp_path):
    assert causal_model.context(study, None)["refutation"] == []
    measured = study.regional_effects[study.regional_effects["source"] == "measured"]
    total = measured[measured["effect"] == "total"].iloc[:3]
    first, second, unclear = total["region"]
    base = {"asked": "contrast", "contrast": "ageing", "effect": "total", "effect_p": 0.01, "repeats": 100}
    base |= {"estimate_ml": 5.0, "mean_ml": 0.1}
    rows = [
        {**base, "region": first, "refuter": "placebo", "p": 0.01, "holds": True},
        {**base, "region": second, "refuter": "placebo", "p": 0.4, "holds": False},
        {**base, "region": unclear, "effect_p": 0.5, "refuter": "placebo", "p": 0.01, "holds": True},
        {**base, "region": first, "refuter": "half"},  # too few halves could be fitted
        {**base, "region": first, "refuter": "confounder", "strength": 0.13, "holds": True},
        {**base, "asked": "counterfactual", "region": first, "refuter": "placebo", "p": 0.01, "holds": True},
    ]
    write_table(pd.DataFrame(rows, columns=REFUTED), tmp_path / "refutation.tsv")
    asked = replace(study, refutation=read_table(tmp_path / "refutation.tsv"))
    item, question = causal_model.context(asked, None)["refutation"]
    assert item["sentences"] == [
        "Against a placebo: the cause exchanged between participants: 1 of 2 effects holds.",
        "Against an unmeasured common cause that explains 13 % of both: 1 of 1 effect holds.",
    ]
    assert (item["contrast"], question["contrast"]) == ("ageing", "the question ageing")
    assert [row["holds"] for row in item["rows"]] == ["yes", "no", "yes", "not told", "yes"]
    render_report(asked, None, tmp_path / "report")
    assert "Do the effects survive refutation?" in Written(tmp_path / "report" / "scm.html").text


def test_the_causal_page_says_in_one_place_what_it_would_take_for_the_graph_to_be_wrong(study):
    effects = study.regional_effects[study.regional_effects["source"] == "measured"].iloc[:3]
    effects = effects.assign(p=[0.01, 0.04, 0.3], robustness_value=[0.31, 0.12, 0.02], region=["gm", "csf", "wm"])
    effects = effects.assign(contrast="ageing", effect="total")
    refuted = pd.DataFrame({"holds": [True, False, None], "effect_p": 0.01}).reindex(columns=REFUTED)
    told = causal_model._if_wrong(replace(study, regional_effects=effects, refutation=refuted))
    assert told[0] == (
        "Of 3 measured regional effects 2 have p below 0.05, as chance alone gives one in twenty; the easiest to "
        "explain away is CSF under ageing (total): an unmeasured common cause does it that explains 12 % of what is "
        "left of cause and volume. The hardest is grey matter under ageing (total): 31 %."
    )
    (single, *_) = causal_model._if_wrong(replace(study, regional_effects=effects.iloc[:1]))
    assert single == (
        "Of 1 measured regional effect 1 has p below 0.05, as chance alone gives one in twenty; grey matter under "
        "ageing (total), which can be explained away: an unmeasured common cause does it that explains 31 % of what is "
        "left of cause and volume."
    )
    assert told[-1] == "Of 2 tests that refuters put to the effects, 1 was passed."
    assert causal_model._if_wrong(study)[-1].startswith("Refuters have not been asked for")


def test_beside_each_effect_stands_what_it_rests_on_and_what_would_undo_it(study, tmp_path):
    clear = replace(study, tests=study.tests.assign(min_p_fwe=0.01))
    told = causal_model.context(clear, None)
    assert len(told["rests_on"]) == len(set(told["rests_on"])) > 1
    assert all("identified if nothing unmeasured causes" in sentence for sentence in told["rests_on"])
    assert any("contrast ageing; question" in sentence for sentence in told["rests_on"])
    tests = study.tests.set_index(["contrast", "effect"])
    for row in told["tests"]:
        value = tests.loc[(row["contrast"], row["effect"]), "max_robustness_value"]
        share = f"{100 * value:.2g} % of what is left of age and of the latent where it is clearest"
        assert row["undone"] == ("" if row["effect"] == "joint" else share)
    (regions,) = told["regions"]
    effects = study.regional_effects
    assert effects.loc[effects["source"] == "measured", "robustness_value"].notna().all()
    for row, (_, effect) in zip(regions["rows"], effects.iterrows(), strict=True):
        share = f"{100 * effect['robustness_value']:.2g} % of what is left of age and of {row['region']}"
        chance = f"nothing: it may be chance (p {words.p_value(effect['p'])})"
        known = "" if np.isnan(effect["robustness_value"]) else chance if effect["p"] >= 0.05 else share
        assert row["undone"] == known
    assert {row["undone"][:7] for row in regions["rows"]} > {"", "nothing"}
    odds = study.nodes.assign(e_value=2.25)
    of_node = causal_model.context(replace(study, nodes=odds), None)["models"][0]
    assert {row["undone"] for row in of_node["rows"]} == {"a risk ratio of 2.25 with both"}
    render_report(study, None, tmp_path)
    assert told["rests_on"][0] in Written(tmp_path / "scm.html").text


def test_the_evaluation_page_says_how_far_own_slopes_widen_intervals(study):
    assert evaluation._own_slopes(study).startswith("No five participants came often enough")
    row = {"check": "slope_spread", "item": "gm", "value": 0.32, "warning": None}
    told = evaluation._own_slopes(replace(study, diagnostics=pd.concat([study.diagnostics, pd.DataFrame([row])])))
    assert "per cent of the mean slope: grey matter 32 %. Intervals of total changes" in told
    assert told.endswith("would come on top.")
    few = {"check": "returning_participants", "item": "gm", "value": 12, "warning": "only 12 came several times"}
    table = pd.concat([study.diagnostics, pd.DataFrame([row, few])])
    assert evaluation._own_slopes(replace(study, diagnostics=table)).endswith("on top. Only 12 came several times.")


def test_a_scans_page_says_its_place_among_participants_like_it(study):
    scan_id = study.places["scan"].iloc[0]
    row = next(row for row in study.cohort.to_dict("records") if row["scan"] == scan_id)
    shown = scan.context(study, None, row)["places"]
    gm = study.places.set_index(["scan", "measure"]).loc[(scan_id, "gm")]
    found = next(place for place in shown if place["label"] == "grey matter")
    assert found["interval"] == f"{gm['centile_low']:.0f} to {gm['centile_high']:.0f}"
    assert f"percentile {gm['centile']:.0f}" in found["centile"]
    assert any(place["label"] == "All that the graph leaves unexplained" for place in shown)


def test_nodes_without_a_formula_that_go_together_stand_with_the_graph(study):
    row = {"check": "exogenous_association_p", "item": "age, sex", "value": 1e-5, "warning": "age and sex go together"}
    warned = replace(study, diagnostics=pd.concat([study.diagnostics, pd.DataFrame([row])]))
    assert "Age and sex go together." in causal_model.context(warned, None)["graph_findings"]


def test_what_makes_p_values_doubtful_stands_beside_them(study):
    rows = [
        {
            "check": "residual_variance_p",
            "item": "age",
            "value": 1e-5,
            "warning": "the residual variance depends on age",
        },
        {
            "check": "residual_skewness",
            "item": "gm",
            "value": 2.0,
            "warning": "the residuals of gm are strongly skewed",
        },
        {"check": "error_rate_05", "item": "family-wise", "value": 0.1, "warning": "it finds an effect in up to 10 %"},
    ]
    warned = replace(study, diagnostics=pd.concat([study.diagnostics, pd.DataFrame(rows)]))
    cautions = causal_model.context(warned, None)["cautions"]
    assert "The residual variance depends on age." in cautions
    assert "The residuals of gm are strongly skewed." in cautions
    assert "It finds an effect in up to 10 %." in cautions
    assert cautions[-1].startswith("The total effect of ageing takes what the nodes in between pass on")


CHOICES = [
    (section, name, choice)
    for section, options in (
        ("preprocess", PreprocessOptions),
        ("autoencoder", AutoencoderOptions),
        ("scm", ImageOptions),
    )
    for name, field in options.model_fields.items()
    if get_origin(field.annotation) is Literal
    for choice in get_args(field.annotation)
]


@pytest.mark.parametrize(
    ("section", "name", "choice"), CHOICES, ids=[f"{name}-{choice}" for _, name, choice in CHOICES]
)
def test_methods_can_be_written_for_every_choice_of_an_option(study, section, name, choice):
    config = study.config.model_dump(by_alias=True)
    config["autoencoder"]["kind"] = "vqvae"
    options = config["scm"]["image"] if section == "scm" else config[section]
    options[name] = choice
    assert "## Encoding" in methods_text(replace(study, config=Config.model_validate(config))).text


def test_methods_name_the_quantizer_that_was_trained(study):
    def told(**options: object) -> str:
        config = study.config.model_dump(by_alias=True)
        config["autoencoder"] |= {"kind": "vqvae", **options}
        return " ".join(methods_text(replace(study, config=Config.model_validate(config))).text.split())

    assert "whole steps of 0.075 of the intensity of white matter" in told(quantizer="scalar", quantizer_step=0.075)
    assert "quantised by 3 codebooks of 128 codes" in told(quantizer="residual", codebooks=3, codebook_size=128)


def test_methods_say_how_missing_covariates_were_imputed(study):
    def told(**options: object) -> str:
        config = study.config.model_dump(by_alias=True)
        config["scm"] |= options
        return " ".join(methods_text(replace(study, config=Config.model_validate(config))).text.split())

    assert "missing values" not in told().lower()
    assert "expect, once, which standard errors do not count" in told(missing="impute")
    assert "drawn 20 times from their posterior" in told(missing="impute", imputations=20)


def test_methods_say_what_was_shrunk_away(study):
    told = "do not stand out as different between the hemispheres"
    shrunk = study.config.scm.image.model_copy(update={"shrinkage": "by_component"})
    config = study.config.model_copy(update={"scm": study.config.scm.model_copy(update={"image": shrunk})})
    study = replace(study, config=config)
    assert told not in " ".join(methods_text(study).text.split())  # nobody compared them
    row = {"check": "sides_differ", "item": "image", "value": 0.0, "warning": None}
    compared = replace(study, diagnostics=pd.concat([study.diagnostics, pd.DataFrame([row])]))
    assert told in " ".join(methods_text(compared).text.split())
    rows = [{"check": "mediator_apart", "item": name, "value": share} for name, share in (("gm", 1.0), ("wm", 0.4))]
    doubted = replace(study, diagnostics=pd.concat([study.diagnostics, pd.DataFrame(rows)]))
    told = "what goes with gm and wm (in 40 % of the imputations) in the image did not go with its causes"
    assert told in " ".join(methods_text(doubted).text.split())


def test_methods_name_what_shrinkage_left_nothing_of_and_the_mediators_that_stand_apart(study):
    shrunk = study.config.scm.image.model_copy(update={"shrinkage": "by_component"})
    config = study.config.model_copy(update={"scm": study.config.scm.model_copy(update={"image": shrunk})})
    rows = [("no_effect", "sex", 1.0, "w"), ("mediator_apart", "ventricles", 1.0, "w")]
    found = pd.DataFrame(rows, columns=["check", "item", "value", "warning"])
    told = replace(study, config=config, diagnostics=pd.concat([study.diagnostics, found]))
    text = " ".join(methods_text(told).text.split())
    assert "terms that do not stand out from the noise were left out (of sex nothing is left); what goes with " in text
    assert "what goes with ventricles in the image did not go with its causes" in text


def test_a_lost_volume_costs_one_picture_and_says_so(study):
    rows = study.scans.rows.copy()
    lost = study.made["scan"].iloc[0]
    rows.loc[lost, "preproc_t1w"] = "gone.nii.gz"
    broken = with_rows(study, rows)
    context = scan.context(broken, made_up_study.open_gallery(broken), broken.rows[lost])
    assert context["reconstruction"] is None
    assert "gone.nii.gz" in context["why_no_reconstruction"]


def test_reconstructions_are_shown_from_best_to_worst_of_each_split(study):
    captions = [item["caption"] for item in training.context(study, made_up_study.open_gallery(study))["examples"]]
    for split, part in study.reconstruction.groupby("split"):
        best, worst = (part["scan"][getattr(part["psnr_brain_db"], which)()] for which in ("idxmax", "idxmin"))
        own = [caption for caption in captions if caption.startswith(f"{split}, ")]
        assert own[0].startswith(f"{split}, best: {best}. In the brain: PSNR {part['psnr_brain_db'].max():.1f} dB")
        assert own[-1].startswith(f"{split}, worst: {worst}. In the brain: PSNR {part['psnr_brain_db'].min():.1f} dB")


def test_the_autoencoders_headline_is_the_test_splits(study):
    reconstruction = study.reconstruction
    test = reconstruction[reconstruction["split"] == "test"]
    context = training.context(study, None)
    assert context["figures"][0]["value"] == f"{test['psnr_brain_db'].mean():.1f} dB"
    assert [(row["split"], row["scans"]) for row in context["fidelity"]] == [
        (split, str((reconstruction["split"] == split).sum())) for split in ("train", "validation", "test")
    ]


def test_methods_name_the_template_and_grid_of_the_scans_that_were_encoded(report, study):
    text = " ".join(Written(report / "methods.html").text.split())
    assert "target made from Drawn" in text
    assert "an affine transform at 6 mm" in text
    # The same words as a text, with what it cites.
    markdown = " ".join((report / "methods.md").read_text().split())
    assert "(N4; Tustison et al. 2010)" in markdown
    assert "- Tustison Nicholas J., Avants Brian B.," in markdown
    assert "https://doi.org/10.48550/arXiv.2409.05585" in markdown
    assert f"{len(study.scans.rows)} T1-weighted scans of 15 participants" in markdown
    assert "kind: pca" in markdown
    assert "VQ-VAE" not in markdown.partition("## References")[0]  # the study's encoder is another


def test_every_work_that_is_cited_is_in_the_bibliography_and_no_other(report):
    keys = re.findall(r"^@\w+\{(\w+),$", (report / "citation.bib").read_text(), flags=re.MULTILINE)
    text = " ".join((report / "methods.md").read_text().partition("## References")[0].split())
    assert {"peng2024", "brainscm", "tustison2010", "pearl2009"} <= set(keys)
    assert set(keys) == {key for key, work in REFERENCES.items() if work.cited in text}
    assert len(keys) == len(set(keys))
    page = Written(report / "methods.html").text
    assert all(f"{{{key}," in page for key in keys)


def test_differences_of_a_query_share_a_scale_that_holds_nearly_all_of_them(study):
    gallery = made_up_study.open_gallery(study)
    query = study.queries[0]
    items = study.made[study.made["query"] == query.name].to_dict("records")
    limits = {gallery.counterfactual(item, query)["limit"] for item in items}
    assert len(limits) == 1
    changes = np.abs([nib.load(study.counterfactuals_dir / item["difference_path"]).get_fdata() for item in items])
    assert 0.98 < np.mean(changes[changes > 0] <= limits.pop()) <= 1


def test_a_difference_is_shown_within_its_scans_own_brain(study):
    gallery = made_up_study.open_gallery(study)
    query = study.queries[0]
    item = study.made[study.made["query"] == query.name].iloc[0].to_dict()
    shown = gallery.counterfactual(item, query)
    volume = np.asarray(nib.load(study.counterfactuals_dir / item["difference_path"]).dataobj)
    own, of_template = study.scans.mask(item["scan"]), gallery.template.brain_mask
    assert (own != of_template).any()
    assert shown["difference"] == pictures.signed(volume, gallery.cuts, own, shown["limit"])


def test_the_example_is_a_supported_answer_where_there_is_one(study):
    made = study.made
    supported = made[made["query"] == "older-by-20"].index[-1]
    manifest = study.manifest.assign(extrapolation=True, positivity=0)
    manifest.loc[supported, ["extrapolation", "positivity"]] = [False, 9]
    gallery = made_up_study.open_gallery(study)
    example = overview.context(replace(study, manifest=manifest), gallery)["example"]
    assert example["scan"] == made.loc[supported, "scan"]
    assert [badge.name for badge in example["badges"]] == ["supported"]
    assert example["is_supported"]
    least = overview.context(replace(study, manifest=manifest.assign(extrapolation=True)), gallery)["example"]
    assert not least["is_supported"]


def test_every_figure_of_a_counterfactual_carries_its_badges_and_measured_changes(report, study):
    pages = [report / "index.html", report / "counterfactuals.html", *(report / "scans").glob("*.html")]
    for path in pages:
        html = path.read_text()
        figures = html.count("counterfactual − scan (white matter = 1): blue is darker, red is brighter, black")
        figures += html.count(": truth known</h3>")  # of a later scan: its pictures are in the viewer
        assert html.count('<p class="over"><span class="badges"><span class="badge') == figures, path.name
        assert html.count(">Measured (ml)<") == figures, path.name
    scan_pages = [path for path in pages if path.stem in set(study.made["scan"])]
    assert all("older-by-20, counterfactual" in Written(path).text for path in scan_pages)


def test_changes_that_the_evaluation_did_not_measure_are_those_of_the_counterfactuals_with_a_word_on_the_interval(
    study,
):
    regions = study.regions.assign(low_95_ml=study.regions["change_ml"] - 1, high_95_ml=study.regions["change_ml"] + 2)
    unbounded = replace(study, metrics=study.metrics.iloc[:0])
    unmeasured = replace(unbounded, regions=regions)
    gallery = made_up_study.open_gallery(study)
    item = study.made[study.made["query"] == "older-by-20"].iloc[0].to_dict()
    assert "not calibrated" in [badge.name for badge in counterfactuals.answer(unbounded, gallery, item)["badges"]]
    shown = counterfactuals.answer(unmeasured, gallery, item)
    assert not shown["is_evaluated"]
    assert "not calibrated" not in [badge.name for badge in shown["badges"]]
    (row,) = [row for row in shown["regions"]["rows"] if row["region"] == "grey matter"]
    own = regions[(regions["scan"] == item["scan"]) & (regions["query"] == item["query"])]
    found = own.set_index("region").loc["gm"]
    assert row["measured"] == signed(f"{found['change_ml']:+.1f}")
    before_ml = study.scans.rows.at[item["scan"], "gm_ml"]
    ends_ml = [found["low_95_ml"], found["high_95_ml"]]
    ml, percent = ("{:+.1f} to {:+.1f}".format(*ends) for ends in (ends_ml, [100 * end / before_ml for end in ends_ml]))
    assert row["interval"] == signed(f"{ml}<small>{percent} %</small>")
    # What the evaluation expected of its test scans is what is expected of every scan.
    evaluated = {change.region: change for change in study.changes[item["scan"], "older-by-20"]}
    for change in unmeasured.measured_changes[item["scan"], "older-by-20"]:
        assert change.expected_ml == pytest.approx(evaluated[change.region].expected_ml)
    assert row["expected"] == signed(f"{evaluated['gm'].expected_ml:+.1f}")
    assert all(np.isfinite(each.expected_ml) for changes in study.measured_changes.values() for each in changes)


def test_the_cohort_page_shows_volumes_against_age_and_where_counterfactuals_lead(study):
    shown = cohort.context(study, None)["volumes"]
    assert (shown["node"], shown["queries"]) == ("age", ["older-by-20", "man"])
    assert "Grey matter" in [chart["heading"] for chart in shown["charts"]]
    (chart,) = [chart for chart in shown["charts"] if chart["heading"] == "Ventricles"]
    older = chart["drawing"].split('data-query="older-by-20"')[1].split('data-query="man"')[0]
    rows = study.regions[(study.regions["query"] == "older-by-20") & (study.regions["region"] == "ventricles")]
    named = badge_names(study, ["older-by-20"])
    for row in rows[rows["scan"].str.endswith("ses-1")].to_dict("records"):
        change = signed(f"{row['change_ml']:+.1f}")
        badges = named[row["scan"], "older-by-20"]
        assert f"<title>{row['scan']}: {change} ml; {badges}</title>" in older
    first_scans = study.usable.drop_duplicates("participant")
    points = chart["drawing"].split("data-query")[0]
    assert points.count("<circle") == first_scans["age"].notna().sum()  # each participant once
    nobody = replace(study, manifest=study.manifest.iloc[:0], regions=study.regions.iloc[:0])
    assert cohort.context(nobody, None)["volumes"]["queries"] == []


def test_the_map_of_positivity_agrees_with_what_each_counterfactual_was_told(study):
    shown = cohort.context(study, None)["positivity"]
    assert shown["near"] == "age and sex"
    cells: dict[int, list[tuple[str, float, float]]] = {0: [], 1: []}
    for kind, x, y, width in re.findall(
        r'class="near (\w+)" x="([\d.]+)" y="(\d+)" width="([\d.]+)"', shown["drawing"]
    ):
        cells[int(y) // 40].append((kind, float(x), float(x) + float(width)))
    labels = re.findall(r'text-anchor="end">([FM])</text>', shown["drawing"])
    row_of = {label: place for place, label in enumerate(labels)}
    left, right = cells[0][0][1], cells[0][-1][2]
    ages = study.made["counterfactual_age"].astype(float)
    low, high = min(ages.min(), study.sample["age"].min()), max(ages.max(), study.sample["age"].max())
    agree = []
    for item in study.made.to_dict("records"):
        x = left + (right - left) * (item["counterfactual_age"] - low) / (high - low)
        kind = next(
            kind for kind, start, end in cells[row_of[item["counterfactual_sex"]]] if start - 0.2 <= x <= end + 0.2
        )
        agree.append(kind == ("none" if item["positivity"] == 0 else "few" if item["positivity"] < 5 else "some"))
    assert np.mean(agree) > 0.7  # a cell stands for all ages within it
    assert cohort.context(replace(study, sample=study.sample.iloc[:0]), None)["positivity"] is None


def test_a_picture_is_in_a_page_once(report):
    for path in report.rglob("*.html"):
        pictures_in = re.findall(r'src="(data:image/[^"]+)"', path.read_text())
        assert len(pictures_in) == len(set(pictures_in)), path.name
        for name in re.findall(r'data-same="([^"]+)"', path.read_text()):
            assert f'id="{name}"' in path.read_text()


def test_few_participants_are_a_sentence_and_coinciding_methods_say_why(study):
    (simulated, *_) = evaluation.context(study, None)["truths"]
    assert simulated["too_few"].startswith("BrainSCM reaches PSNR")
    assert simulated["charts"] == []
    metrics = study.metrics.copy()
    metrics.loc[metrics["method"] == "pca_glm", "method"] = "voxel"
    copied = metrics[metrics["method"] == "voxel_glm"].assign(method="pca_glm")
    many = pd.concat([metrics[metrics["method"] != "voxel"], copied]).assign(participants=20)
    (simulated, *_) = evaluation.context(replace(study, metrics=many), None)["truths"]
    assert simulated["too_few"] is None
    assert len(simulated["charts"]) > 3
    assert any(
        each.startswith("Voxelwise GLM and PCA + GLM coincide: with as many") for each in simulated["coinciding"]
    )


def test_a_split_that_lacks_a_level_and_a_node_without_a_way_to_the_image_are_said(study):
    rows = study.scans.rows.copy()
    rows.loc[rows["split"] == "test", "sex"] = "M"
    assert any(
        said.startswith("No participant of the test split has sex F, as ")
        for said in overview.context(with_rows(study, rows), None)["findings"]
    )
    scm = study.config.scm.model_copy(update={"image": study.config.scm.image.model_copy(update={"formula": "age"})})
    found = causal_model.context(replace(study, config=study.config.model_copy(update={"scm": scm})), None)["findings"]
    assert any(said.startswith("No arrow leads from sex and ventricles to the image") for said in found)


def test_levels_that_few_have_each_are_missed_together(study):
    rows = study.scans.rows.copy()
    rows["sex"] = np.where(rows["split"] == "test", "A", [*"ABCDEFGHIJK" * 2][: len(rows)])
    missed = with_rows(study, rows)
    (told,) = [said for said in overview.context(missed, None)["findings"] if " has sex " in said]
    assert re.search(r"has sex [B-K, ]+ or [B-K], as 100 % of the training split have", told)


def test_a_cause_without_an_arrow_into_the_image_has_no_direct_effect(study):
    image = study.config.scm.image.model_copy(update={"formula": "ventricles"})
    config = study.config.model_copy(update={"scm": study.config.scm.model_copy(update={"image": image})})
    through = replace(study, config=config)
    context = causal_model.context(through, made_up_study.open_gallery(through))
    (ageing,) = context["regions"]
    assert ageing["is_indirect"]
    assert {row["effect"] for row in ageing["rows"]} == {"total"}
    assert len(ageing["charts"]) == 1
    assert [layer.name for layer in context["maps"]["stack"].layers][1:] == ["ageing"]
    assert not any(said.startswith("The direct effect of age") for said in context["rests_on"])
    (ageing,) = causal_model.context(study, None)["regions"]
    assert not ageing["is_indirect"]
    assert {row["effect"] for row in ageing["rows"]} == {"total", "direct"}


def test_effect_maps_share_one_scale_that_a_map_of_nothing_does_not_narrow(study, tmp_path):
    gallery = made_up_study.open_gallery(study)
    context = causal_model.context(study, gallery)
    (picture,) = context["effects"]
    assert picture["limit"] == context["maps"]["stack"].limits["signed"]
    paths = list((study.results / "scm" / "effects").glob("*_T1w.nii.gz"))
    nothing = tmp_path / "nothing_T1w.nii.gz"
    volume = nib.load(paths[0])
    nib.Nifti1Image(1e-6 * np.asarray(volume.dataobj), volume.affine).to_filename(nothing)
    assert gallery.effect_limit([*paths, *[nothing] * 20]) == gallery.effect_limit(paths)


def test_an_effect_map_of_nothing_is_said_to_be_one(study, monkeypatch):
    """Its picture is black, as one that could not be drawn would be."""
    gallery = made_up_study.open_gallery(study)
    (seen,) = causal_model.context(study, gallery)["effects"]
    assert "No voxel changes" not in seen["caption"]
    monkeypatch.setattr(type(gallery), "largest_effect", lambda self, path: 0.00123)
    (nothing,) = causal_model.context(study, gallery)["effects"]
    assert nothing["caption"].endswith("No voxel changes by more than 0.0012.")


def test_a_training_that_was_looked_at_twice_has_no_curve(study, tmp_path):
    history = pd.DataFrame({"step": [0, 28], "split": "validation", "psnr_brain_db": [33.42, 33.45]})
    twice = replace(study, history=history)
    assert training.context(twice, None)["charts"] == []
    untrained = replace(study, history=history.iloc[:0])  # of principal components
    assert training.context(untrained, None)["charts"] == []
    render_report(twice, None, tmp_path)
    assert "The validation split was looked at twice" in " ".join(Written(tmp_path / "training.html").text.split())


def test_a_query_says_how_many_answers_it_has_and_which_scans_have_none(study):
    lacking, scan_without = with_one_answer_less(study)
    shown, _ = counterfactuals.context(lacking, None)["queries"]
    assert (shown["figures"][0]["value"], shown["figures"][0]["note"]) == ("3", "of 4 counterfactuals asked")
    assert shown["failed"] == [{"scan": scan_without, "reason": "it could not be decoded"}]
    assert scan_without not in shown["others"]


def test_a_trajectory_is_one_question_with_a_picture_a_member(study, monkeypatch):
    """The two queries of the made-up study, told to be members of one."""
    members = [query.model_copy(update={"trajectory": "both"}) for query in study.queries]
    together = replace(study)
    monkeypatch.setitem(together.__dict__, "queries", members)
    (shown,) = counterfactuals.context(together, made_up_study.open_gallery(together))["queries"]
    assert (shown["name"], shown["figures"][0]["value"]) == ("both", "8")
    assert [[member["label"] for member in item["members"]] for item in shown["answers"]] == [
        ["age 20 years higher", "sex M"]
    ] * 2
    assert len({member["difference"] for item in shown["answers"] for member in item["members"]}) == 4
    # On the scale that all queries share; these two set it, so that they have no other.
    assert shown["answers"][0]["limit"] == shown["answers"][0]["own_limit"]
    assert {member["own_difference"] for item in shown["answers"] for member in item["members"]} == {None}
    figures = shown["answers"][0]["regions"]
    assert [row["member"] for row in figures["rows"]] == ["age 20 years higher"] * 5 + ["sex M"] * 5
    assert [key for key, _, _ in figures["columns"]][:5] == [
        "member", "region", "measured", "measured_percent", "interval",
    ]  # fmt: skip
    # What weighs on any of the members stands over their picture.
    assert [badge.name for badge in shown["answers"][0]["badges"]] == ["few near", "extrapolation", "not calibrated"]
    # So does the warning of the one that lacks most, with its name.
    first = shown["answers"][0]["scan"]
    made = together.made[together.made["scan"] == first].set_index("query")
    assert made["extrapolation"].tolist() == [True, True]  # the second is not calibrated, either
    assert shown["answers"][0]["warning"] == f"sex M: {made['warning'].iloc[1]}"
    (row,) = overview.context(together, None)["questions"]
    assert row["made"] == 8
    page = scan.context(together, None, together.rows[shown["others"][0]])
    assert [item["query"] for item in page["counterfactuals"]] == ["both"]


def test_slopes_stand_beside_those_across_participants(study):
    (block,) = evaluation.context(study, None)["slopes"]
    row = study.regional_slopes.set_index("region").loc["gm"]
    shown = next(cells for cells in block["rows"] if cells["region"] == "grey matter")
    assert shown["participants"].startswith(signed(f"{row['participants_slope_ml']:.2f}"))
    assert shown["same_mask"].startswith(signed(f"{row['same_mask_slope_ml']:.2f}"))
    assert shown["within"].startswith(signed(f"{row['counterfactual_slope_ml']:.2f}"))
    assert shown["ratio"] == signed(f"{row['counterfactual_slope_ml'] / row['same_mask_slope_ml']:.2f}")
    assert block["words"].endswith(f"{row['participants']} real participants.")
    assert block["caption"] == "Slopes on age, ml per year"


def test_methods_table_shows_the_summarys_figures(study):
    (simulated, *_) = evaluation.context(study, None)["truths"]
    shown = next(row for row in simulated["rows"] if row["_class"] == "best")["change_correlation"]
    assert shown.startswith(f"{study.summary['methods']['latent_glm']['change_correlation']:.2f}")
    assert f"{study.summary['truth']['participants']} participants." in simulated["words"]
    assert simulated["few"]


def test_the_matrix_shows_each_excess_beside_its_noise_floor(study):
    matrix = evaluation.context(study, None)["matrix"]
    own = study.minimality[(study.minimality["method"] == "latent_glm") & (study.minimality["decode"] == "residual")]
    cell = own[(own["query"] == "older-by-20") & (own["region"] == "gm")].iloc[0]
    shown = next(row for row in matrix["rows"] if row["query"] == "older-by-20, total effect")["gm"]
    assert signed(f"{cell['excess_ml']:+.1f}") in shown
    assert signed(f"{cell['expected_ml']:+.1f}") in shown
    assert ("<strong>" in shown) == cell["beyond_noise"]
    assert matrix["rows"][-1]["gm"] == f"{cell['noise_ml']:.1f}"


def mean_of(study: Study, metric: str, *, method="latent_glm", decode="residual", source="simulated", stratum="all"):
    """The row of a mean in metrics.tsv."""
    means = study.metrics[(study.metrics["level"] == "mean") & study.metrics["region"].isna()]
    keys = {"metric": metric, "method": method, "decode": decode, "source": source, "stratum": stratum}
    (found,) = means[(means[list(keys)] == pd.Series(keys)).all(axis=1)].to_dict("records")
    return found


def test_a_spread_of_peoples_own_changes_halves_the_coverage_as_it_says():
    sigma, change = 2.0, -10.0
    spread = evaluation.spread_that_halves(NormalDist().inv_cdf(0.975) * sigma, change)
    rng = np.random.default_rng(0)
    truth = change * (1 + spread * rng.normal(size=200_000))
    error = truth - (change + sigma * rng.normal(size=200_000))
    assert (np.abs(error) < NormalDist().inv_cdf(0.975) * sigma).mean() == pytest.approx(0.475, abs=0.005)


def test_the_spread_is_told_of_each_query_and_region(study):
    scan_id, query = next(key for key, changes in study.changes.items() if any(each.is_bounded for each in changes))
    bounded = [Change("gm", 500, low_ml=-8, high_ml=-2, expected_ml=-5), Change("wm", 400, low_ml=-9, high_ml=9)]
    held = SimpleNamespace(
        changes={(scan_id, query): [*bounded, Change("csf", 100, low_ml=-9, high_ml=9, expected_ml=1)]}
    )
    told = evaluation._spreads(held)
    assert told["rows"] == [{"query": query, "gm": "89 %", "csf": "–"}]
    assert evaluation.context(study, None)["spreads"]["rows"]
    assert evaluation._spreads(SimpleNamespace(changes={})) is None


def test_each_truth_has_its_own_means_and_intervals(study):
    truths = evaluation.context(study, None)["truths"]
    for source, truth in zip(("simulated", "follow-up"), truths, strict=True):
        for label, decode in (("BrainSCM (residual)", "residual"), ("BrainSCM (direct)", "direct")):
            found = mean_of(study, "psnr_brain_db", decode=decode, source=source)
            shown = next(row for row in truth["rows"] if row["method"] == label)["psnr_brain_db"]
            limits = f"<small>{found['ci95_low']:.1f} to {found['ci95_high']:.1f}</small>"
            assert shown == f"{found['value']:.1f}{limits if np.isfinite(found['ci95_low']) else ''}"


def test_the_method_that_the_workflow_uses_stands_out(study):
    (simulated, *_) = evaluation.context(study, None)["truths"]
    assert [row["method"] for row in simulated["rows"] if row["_class"] == "best"] == ["BrainSCM (residual)"]


def test_ceilings_are_set_apart_from_methods_and_methods_keep_one_order(study):
    many = replace(study, metrics=study.metrics.assign(participants=12))
    (simulated, *_) = evaluation.context(many, None)["truths"]
    is_ceiling = [row["_class"] == "ceiling" for row in simulated["rows"]]
    assert is_ceiling == sorted(is_ceiling)
    assert [row["method"] for row in simulated["rows"] if "_above" in row] == ["PCA at its best"]
    for chart in simulated["charts"][:2]:
        shown = re.findall(r'text-anchor="end">([^<]{3,})</text>', chart["drawing"])
        assert shown == [row["method"].replace("'", "&#39;") for row in simulated["rows"]]


def test_each_regions_predictions_stand_against_the_truth_answer_by_answer(study):
    (few, *_) = evaluation.context(study, None)["truths"]
    assert few["scatters"] == []  # a sentence says it
    many = replace(study, metrics=study.metrics.assign(participants=12))
    (simulated, *_) = evaluation.context(many, None)["truths"]
    (chart,) = [each for each in simulated["scatters"] if each["heading"] == "Ventricles"]
    changes = {key: next(c for c in found if c.region == "ventricles") for key, found in study.changes.items()}
    changes = {key: change for key, change in changes.items() if np.isfinite(change.true_ml)}
    off = np.mean([abs(change.measured_ml - change.true_ml) for change in changes.values()])
    assert chart["told"] == f"off by {number(float(off))} ml on average; {len(changes)} answers"
    told = re.findall(r"<title>(.*?)</title>", chart["drawing"])
    assert len(told) == len(changes)
    for (scan_id, query), change in changes.items():
        (one,) = [each for each in told if each.startswith(f"{scan_id}, {query}: ")]
        assert f"{signed(f'{change.measured_ml:+.1f}')} ml predicted" in one
        item = study.made[(study.made["scan"] == scan_id) & (study.made["query"] == query)].iloc[0]
        assert ("extrapolation" in one) == bool(item["extrapolation"])


def test_reliability_shows_the_share_of_truths_held_by_region(study):
    many = replace(study, metrics=study.metrics.assign(participants=12))
    (truth, *_) = evaluation.context(many, None)["reliability"]["truths"]
    assert [chart["heading"] for chart in truth["charts"]][:2] == ["All regions", "Grey matter"]
    held = 100 * mean_of(study, "interval_coverage_80")["value"]
    assert f"BrainSCM: 80 % intervals hold {held:.0f} %" in truth["charts"][0]["drawing"]


def test_groups_of_few_participants_have_no_figures(study, report):
    context = evaluation.context(study, None)
    assert context["strata"] == []  # none has enough: one sentence says so
    assert (
        "No group of test participants with a known answer has 5 participants"
        in Written(report / "evaluation.html").text
    )
    metrics = study.metrics.copy()
    metrics.loc[metrics["stratum"] == "query=older-by-20", "participants"] = 5
    some = evaluation.context(replace(study, metrics=metrics), None)["strata"]
    rows = [row for block in some for row in block["rows"] if row["level"] != "older-by-20"]
    assert {row["participants"] for row in rows} <= {1, 2, 3}
    assert {row[score] for row in rows for score in ("correlation", "slope", "psnr", "coverage", "voxel", "pca")} == {
        "–"
    }
    assert context["intervals"]["too_few"].startswith(
        "3 participants against the simulator's true counterfactual heads"
    )


def test_groups_show_each_score_under_its_heading(study):
    study = replace(study, metrics=study.metrics.assign(participants=5))
    (by_query,) = (block for block in evaluation.context(study, None)["strata"] if block["name"] == "By query")
    row = next(row for row in by_query["rows"] if (row["level"], row["truth"]) == ("older-by-20", "simulated"))
    for heading, metric, method in (
        ("correlation", "change_correlation", "latent_glm"), ("slope", "change_slope", "latent_glm"),
        ("psnr", "psnr_brain_db", "latent_glm"), ("coverage", "interval_coverage_95", "latent_glm"),
        ("voxel", "change_correlation", "voxel_glm"), ("pca", "change_correlation", "pca_glm"),
    ):  # fmt: skip
        found = mean_of(study, metric, method=method, stratum="query=older-by-20")
        assert row[heading] == number(found["value"]), heading


def test_intervals_of_three_levels_stand_under_their_own_heading(study):
    shown = next(row for row in evaluation.context(study, None)["intervals"]["rows"] if row["method"] == "BrainSCM")
    for level in (50, 80, 95):
        assert shown[f"at_{level}"] == number(mean_of(study, f"interval_coverage_{level}")["value"], 2)


def test_rules_are_shown_by_decoding(study):
    rows = evaluation.context(study, None)["axioms"]["rows"]
    shown = next(row for row in rows if row["axiom"] == "There and back, once")
    for decode in ("residual", "direct"):
        found = mean_of(study, "reversibility_1_l1", decode=decode, source="axiom")
        assert shown[f"{decode}_l1"] == number(found["value"], 2)


def test_what_could_not_be_computed_is_told_once_a_reason(study):
    methods_found = {
        "voxel_glm": {"why_null": {"interval_coverage_95": "too few participants"}},
        "latent_glm": {"why_null": {"interval_coverage_95": "too few participants", "change_slope": "no truth"}},
    }
    for found in methods_found.values():
        found |= dict.fromkeys(["psnr_brain_db", "change_correlation", "change_slope", "interval_coverage_95"])
    context = evaluation.context(replace(study, summary={**study.summary, "methods": methods_found}), None)
    assert context["why_null"] == [
        "Coverage of Voxelwise GLM and BrainSCM: too few participants.",
        "Slope of BrainSCM: no truth.",
    ]


def test_realism_stands_beside_its_null(study):
    shared = {"query": "older", "method": "latent_glm", "decode": "residual", "pairs": 12, "null_mean": 0.1, "p": 0.012}
    known = {**shared, "features": "regions", "mmd2": 0.123, "null_95": 0.345, "why_null": None}
    unknown = {**shared, "features": "image", "mmd2": np.nan, "null_95": np.nan, "why_null": "too few pairs"}
    realism = evaluation.context(replace(study, realism=pd.DataFrame([known, unknown])), None)["realism"]
    (row,) = realism["rows"]
    assert row["regions"] == "0.123 (0.345), p 0.012"
    assert (row["image"], row["note"], row["pairs"]) == ("–", "too few pairs", "12")


def test_the_overviews_headline_is_the_summarys(study):
    latent = study.summary["methods"]["latent_glm"]
    values = {figure["label"]: figure["value"] for figure in overview.context(study, None)["figures"]}
    assert values["Agreement with the truth"] == f"{latent['change_correlation']:.2f}"
    assert values["Size of the change"] == f"{latent['change_slope']:.2f}"
    assert values["Reconstruction, test split"] == f"{study.summary['reconstruction']['psnr_brain_db']:.1f} dB"


def test_the_reconstructions_headline_has_its_interval_its_basis_and_the_worst_scan(study):
    test = study.reconstruction[study.reconstruction["split"] == "test"]
    (note,) = [
        figure["note"]
        for figure in overview.context(study, None)["figures"]
        if figure["label"] == "Reconstruction, test split"
    ]
    low, high = map(float, re.search(r"\(([\d.]+) to ([\d.]+); 4 scans of 3 participants\)", note).groups())
    assert low < test["psnr_brain_db"].mean() < high
    worst = test.loc[test["psnr_brain_db"].idxmin()]
    assert note.endswith(f"; worst is {worst['scan']}: {worst['psnr_brain_db']:.1f}")


def test_the_overviews_example_is_one_that_can_be_seen(study):
    gallery = made_up_study.open_gallery(study)
    items = study.made[study.made["query"] == "older-by-20"].to_dict("records")
    assert overview.context(study, gallery)["example"]["scan"] == max(items, key=gallery.mean_change)["scan"]


def test_an_answer_says_what_changed_from_what_to_what(study):
    item = study.made[study.made["query"] == "older-by-20"].iloc[0].to_dict()
    answer = counterfactuals.answer(study, made_up_study.open_gallery(study), item)
    changed = {row["node"]: row for row in answer["nodes"]}
    assert set(changed) == {"age", "ventricles"}
    age = study.rows[item["scan"]]["age"]
    assert changed["age"]["factual"] == f"{number(age, 4)} years"
    assert changed["age"]["counterfactual"] == f"{number(age + 20, 4)} years"
    assert f"age {number(age, 4)} years → {number(age + 20, 4)} years" in answer["caption"]


def test_a_query_warns_of_answers_that_no_training_participant_is_near(study):
    manifest = study.manifest.assign(positivity=[0, 3, 0, 0] * 2, extrapolation=False)
    (first, _) = counterfactuals.context(replace(study, manifest=manifest), None)["queries"]
    near = manifest[manifest["query"] == first["name"]]["positivity"]
    assert first["warnings"][:-1] == [f"No training participant is near {(near == 0).sum()} of the 4 answers."]
    assert first["warnings"][-1].startswith("Under older-by-20 move in the wrong direction: ventricles (")
    assert first["figures"][2]["value"] == number(near.median())


def test_regions_are_called_by_their_words(study):
    named = {"CSF", "grey matter", "white matter", "ventricles", "medial temporal grey matter"}
    (effects,) = causal_model.context(study, None)["regions"]
    assert {row["region"] for row in effects["rows"]} == named
    (block,) = evaluation.context(study, None)["slopes"]
    assert {row["region"] for row in block["rows"]} == named


def test_measured_and_decoded_effects_stand_in_pairs_by_region_in_per_cent(study):
    (effects,) = causal_model.context(study, None)["regions"]
    assert [chart["caption"].split()[0] for chart in effects["charts"]] == ["Total", "Direct"]
    drawing = effects["charts"][0]["drawing"]
    grey = drawing.split("grey matter</text>")[1].split('class="strong"')[0]
    own = study.regional_effects
    own = own[(own["effect"] == "total") & (own["region"] == "gm")].set_index("source")
    for source in ("measured", "decoded"):
        percent = own.at[source, "estimate_percent"]
        shown = grey.split(f">{source}</text>")[1].split("</text>")[0].split(">")[-1]
        assert float(shown.replace("−", "-")) == pytest.approx(percent, rel=0.01)


def test_an_effect_says_between_which_settings_it_lies(study):
    (effect,) = causal_model.context(study, made_up_study.open_gallery(study))["effects"]
    assert effect["caption"].startswith("ageing: age from 50 to 80. ")


def test_a_reconstructed_regions_error_is_that_of_scans_not_trained_on(study):
    held_out = study.reconstruction["split"] != "train"
    errors = np.where(held_out, np.where(held_out.cumsum() == 1, -9.0, 1.0), 500.0)
    altered = replace(study, reconstruction=study.reconstruction.assign(gm_error_ml=errors))
    rows = training.context(altered, None)["regions"]
    (row,) = [row for row in rows if row["region"] == "Grey matter"]
    empty, mask = np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool)
    assert len(rows) == len(made_up_study.measure(empty, Geometry(mask)).volumes_ml(empty))
    count = held_out.sum()
    assert row == {
        "region": "Grey matter",
        "bias": number((count - 10) / count),
        "absolute": number((count + 8) / count),
        "worst": "9",
    }


def with_codes(study, dead: int = 0, lost_db: float = 1.0, gain_db: float = 0.5, overfitted_db: float = 0.0):
    """A study with three codebooks of ten codes."""
    rows = [
        {"split": split, "codebook": book, "codes": 10, "dead": dead, "perplexity": 7.0, "bits": 2.81}
        for split in ("train", "validation")
        for book in (1, 2, 3)
    ]
    psnr = np.where(study.reconstruction["split"] == "train", 30.0, 30.0 - overfitted_db)
    reconstruction = study.reconstruction.assign(psnr_brain_db=psnr, quantized_psnr_brain_db=psnr - lost_db)
    history = study.history.copy()
    history.loc[history["split"] == "validation", "psnr_brain_db"] = [20.0, 20.0 + gain_db, 19.0]
    card = study.card | {"bits_per_voxel": 0.8}
    return replace(study, codes=pd.DataFrame(rows), reconstruction=reconstruction, history=history, card=card)


def test_codes_latent_and_training_are_told_to_be_well_or_not(study):
    def verdicts(**changes):
        health = training.context(with_codes(study, **changes), None)["health"]
        return {item["what"]: item["is_well"] for item in health}

    well = {"Latent": True, "Codes": True, "Training": True}
    assert verdicts() == well
    assert verdicts(dead=4) == verdicts(lost_db=4.0) == well | {"Codes": False}
    assert verdicts(overfitted_db=2.0) == well | {"Latent": False}
    assert verdicts(gain_db=0.0)["Training"]
    assert training.context(study, None)["health"] == []  # no codes, nothing to judge


def test_the_models_card_is_in_words(study):
    told = {
        "seed": 20260101,
        "steps": 12000,
        "latent_shape": [32, 10, 12, 10],
        "options": {"channels": [32, 64], "steps": 2},
    }
    card = dict(training.context(replace(study, card={**study.card, **told}), None)["card"])
    assert (card["seed"], card["steps"], card["latent shape"]) == ("20260101", "12,000", "32 × 10 × 12 × 10")
    assert card["options"] == "channels 32, 64; steps 2"


def test_rate_and_distortion_mark_the_weights_that_were_kept(study):
    assert training.context(study, None)["rate_distortion"] is None  # components have no codes
    steps = [100, 200, 300]
    history = pd.DataFrame(
        {
            "step": steps, "split": "validation", "psnr_brain_db": [24.0, 27.0, 26.0],
            "quantized_psnr_brain_db": [20.0, 25.5, 25.0], "bits_per_voxel": [0.5, 0.6, 0.7],
        }
    )  # fmt: skip
    coded = replace(study, history=history, card={**study.card, "best_step": 200})
    shown = training.context(coded, None)["rate_distortion"]
    assert shown["lost_db"] == "1.5"
    told = re.findall(r"<title>([^<]+)</title>", shown["drawing"])
    assert [each.split(":")[0] for each in told] == ["step 100", "step 200", "step 300", "step 200"]


def test_a_noisy_curve_is_smoothed_over_itself_and_a_bad_step_does_not_move_it(study):
    loss = np.ones(60)
    loss[30] = 50.0
    history = pd.DataFrame({"step": np.arange(60), "split": "train", "loss": loss})
    (curve,) = training.context(replace(study, history=history), None)["charts"]
    raw, smoothed = re.findall(r'<polyline class="line ([^"]+)" points="([^"]+)"', curve["drawing"])
    assert (raw[0], smoothed[0]) == ("train faint", "train")
    heights = [{pair.split(",")[1] for pair in points.split()} for _, points in (raw, smoothed)]
    assert [len(each) for each in heights] == [2, 1]


def test_every_codebook_has_a_row_with_both_splits(study):
    context = training.context(with_codes(study, dead=4), None)
    assert [row["codebook"] for row in context["codes"]] == ["1", "2", "3"]
    assert (
        {row["dead_train"] for row in context["codes"]} == {row["dead_validation"] for row in context["codes"]} == {"4"}
    )
    assert context["figures"][-1]["value"] == "0.80 bits a voxel"


def test_a_scan_page_shows_the_pictures_that_there_are(study, tmp_path):
    (tmp_path / "figures").mkdir()
    name = "sub-01_ses-1_registration.png"
    shutil.copy(study.scans.preproc_dir / "figures" / name, tmp_path / "figures" / name)
    moved = replace(study, scans=replace(study.scans, preproc_dir=tmp_path))
    (picture,) = scan.context(moved, None, study.rows["sub-01_ses-1"])["pictures"]
    assert picture["alt"] == "Registration of sub-01_ses-1"


def test_a_scan_page_says_what_the_scan_was_left_out_of(study):
    assert ("left out of scm", "no age") in scan.context(study, None, study.rows["sub-02_ses-1"])["facts"]
    facts = dict(scan.context(study, None, study.rows["sub-01_ses-1"])["facts"])
    assert set(facts) == {"participant", "session", "split", "age (years)", "sex"}
    assert facts["split"] == study.scans.rows.loc["sub-01_ses-1", "split"]


def test_a_scan_page_marks_measures_that_are_unusual_in_the_cohort(study):
    rows = study.scans.rows.assign(mask_dice=0.9 + 0.001 * np.arange(len(study.scans.rows)))
    rows.loc["sub-05_ses-1", "mask_dice"] = 0.5
    odd = with_rows(study, rows)
    for name, unusual in (("sub-05_ses-1", True), ("sub-06_ses-1", False)):
        shown = scan.context(odd, None, odd.rows[name])["measures"]
        dice = next(measure for measure in shown if measure["label"] == "mask dice")
        assert ("status warn" in dice["z"]) == unusual
    ventricles = next(measure for measure in shown if measure["label"] == "Ventricles")
    assert ventricles["value"] == f"{number(rows.loc['sub-06_ses-1', 'ventricles_ml'], 4)} ml"


def test_the_matrix_colours_what_is_above_and_below_otherwise(study):
    minimality = study.minimality[study.minimality["method"] == "latent_glm"].head(1).assign(decode="residual")
    for excess, colour in ((3.0, "above"), (-3.0, "below")):
        one = replace(study, minimality=minimality.assign(excess_ml=excess, noise_ml=2.0))
        shown = evaluation.context(one, None)["matrix"]["rows"][0]
        assert f'class="heat {colour}" style="--share: 22%"' in shown[minimality["region"].iloc[0]]


def test_the_pages_are_the_same_whatever_the_number_of_shards_is(study, report, tmp_path):
    gallery = made_up_study.open_gallery(study)
    dealt = [Shard(place, 4) for place in range(1, 5)]
    parts = [tmp_path / str(shard) for shard in dealt]
    for shard, part in zip(dealt, parts, strict=True):
        render.render_scans(study, gallery, part, shard=shard)
    assert sum(len([*part.glob("scans/*.html")]) for part in parts) == len(study.rows)
    render.gather_scans(study, parts, tmp_path / "report")
    written = {path.relative_to(tmp_path / "report") for path in (tmp_path / "report").rglob("*.*")}
    assert written == {
        path.relative_to(report) for inner in ("scans", "volumes/sub-*") for path in report.glob(f"{inner}/*.*")
    }
    for path in written:
        assert (tmp_path / "report" / path).read_bytes() == (report / path).read_bytes(), path
    page = parts[0] / next(path for path in written if (parts[0] / path).exists())
    assert page.stat().st_nlink == 2  # shared, not copied


def test_pages_of_other_shards_lead_to_their_neighbours_of_now_and_those_of_scans_that_are_gone_go(study, tmp_path):
    render.render_scans(study, None, tmp_path / "1")
    first, gone, last = study.worst_first[:3]
    less = replace(study, scans=replace(study.scans, rows=study.scans.rows.drop(index=gone)))
    (tmp_path / "report" / "scans").mkdir(parents=True)
    (tmp_path / "report" / "scans" / f"{gone}.html").write_text("of an earlier run")
    render.gather_scans(less, [tmp_path / "1"], tmp_path / "report")
    pages = {path.stem: path.read_text() for path in (tmp_path / "report" / "scans").iterdir()}
    assert set(pages) == set(less.rows)
    assert f'rel="next" href="{last}.html">' in pages[first]
    assert f'rel="prev" href="{first}.html">' in pages[last]
    assert f"1 of {len(less.rows)}<" in pages[first]
    assert gone not in pages[first] + pages[last]
