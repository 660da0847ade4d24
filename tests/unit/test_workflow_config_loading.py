"""A study's options over the defaults: what merges, and what a typo is answered with."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from brainscm.config import Config
from brainscm.errors import ConfigError
from brainscm.identity import Identity
from brainscm.workflow.config_loading import check_study_file, load_config

ROOT = Path(__file__).parents[2]


def load(**study: Any) -> Config:
    return load_config(ROOT, study)


def test_without_scans_the_demo_is_laid_over_the_defaults() -> None:
    config = load()
    assert config.bids_dir is None
    demo = yaml.safe_load((ROOT / "demo.yaml").read_text())
    assert list(config.scm.nodes) == list(demo["scm"]["nodes"])
    assert config.scm.image.formula == demo["scm"]["image"]["formula"]
    assert [query.name for query in config.counterfactuals] == [query["name"] for query in demo["counterfactuals"]]
    assert config.preprocess.voxel_mm == demo["preprocess"]["voxel_mm"]
    assert config.simulation.participants == demo["simulation"]["participants"]


@pytest.mark.parametrize("key", ["bids_dir", "dicom_dir"])
def test_a_study_with_scans_gets_the_defaults_and_nothing_of_the_demo(key: str, tmp_path: Path) -> None:
    assert load(**{key: tmp_path}) == Config(**{key: tmp_path})


def test_a_study_has_the_last_word(tmp_path: Path) -> None:
    assert load(preprocess={"voxel_mm": 1.5}).preprocess.voxel_mm == 1.5
    assert load(bids_dir=tmp_path, preprocess={"voxel_mm": 1.5}).preprocess.voxel_mm == 1.5
    assert load(bids_dir=tmp_path, scm={"image": {"formula": "age"}}).scm.image.formula == "age"
    assert load(counterfactuals=[]).counterfactuals == []


def test_sections_merge_key_by_key() -> None:
    config = load(autoencoder={"kind": "pca"}, scm={"contrasts": {"late": {"age": [60, 80]}}})
    assert config.autoencoder.kind == "pca"
    assert config.autoencoder.channels == Config().autoencoder.channels
    assert {"ageing", "late"} <= set(config.scm.contrasts)


@pytest.mark.parametrize("scans", [{}, {"bids_dir": ROOT}])
def test_own_nodes_replace_the_graph_below_whole(scans: dict[str, Any]) -> None:
    config = load(**scans, scm={"nodes": {"weight": {}}, "image": {"formula": "weight"}})
    assert set(config.scm.nodes) == {"weight"}
    assert config.scm.contrasts == {}
    assert config.counterfactuals == []


def test_a_folder_of_scans_may_stand_in_the_defaults_themselves(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"bids_dir: {tmp_path}\n")
    assert load_config(tmp_path, {"seed": 3}) == Config(bids_dir=tmp_path, seed=3)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scans").mkdir()
    assert load(bids_dir="~/scans").bids_dir == tmp_path / "scans"


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"autoencodr": {}}, "config: autoencodr: unknown key; did you mean 'autoencoder'?"),
        ({"autoencoder": {"kindd": "pca"}}, "config: autoencoder.kindd: unknown key; did you mean 'kind'?"),
        ({"autoencoder": {"kind": "vae"}}, "config: autoencoder.kind: .*'vqvae' or 'pca'.*given: 'vae'"),
        ({"cohort": {"split": {"trian": 0.5}}}, "config: cohort.split.trian: unknown key; did you mean 'train'?"),
        (
            {"cohort": {"split": {"train": 0.5}}},
            "config: cohort.split: train \\+ validation \\+ test is 0.8; make it 1",
        ),
        ({"preprocess": {"voxel_mm": "2mm"}}, "config: preprocess.voxel_mm: .*given: '2mm'"),
        ({"template": {"nam": "x"}}, "config: template.nam: unknown key; did you mean 'name'?"),
        (
            {"template": {"name": "x", "t1w": "/no/t1w.nii.gz", "brain_mask": "/no/mask.nii.gz"}},
            "t1w.nii.gz is not a file",
        ),
        ({"template": "MNI152NLin2009cAsymm"}, "config: template: MNI152NLin2009cAsymm is neither"),
        ({"bids_dir": "/no/such/folder"}, "config: bids_dir: /no/such/folder is not a folder"),
        ({"output_dir": "/etc/passwd/results"}, "config: output_dir: /etc/passwd is a file"),
        ({"autoencoder": None}, "config: autoencoder: nothing is written there; .* {} for none"),
        ({"bids_dir": "a", "dicom_dir": "b"}, "both given"),
        ({"scm": {"image": {"formula": "agee + sex"}}}, "config: scm.image.formula: 'agee' is not a node"),
        (
            {"scm": {"nodes": {"age": {"formula": "sex"}, "sex": {"formula": "age"}}, "image": {"formula": "1 + age"}}},
            "circle",
        ),
        ({"seed": None}, "config: seed: nothing is written there; .* leave it out"),
        ({"scm": "age + sex"}, "config: scm: should be a section.*given: 'age \\+ sex'"),
        ({"autoencoder": {"channels": [32, "big"]}}, "config: autoencoder.channels\\[1\\]: should be a whole number"),
        ({"autoencoder": {"batch_size": True}}, "config: autoencoder.batch_size: true or false cannot stand here"),
        (
            {"quality": {"volume_warn_ml": [True, 2050]}},
            "config: quality.volume_warn_ml: true or false cannot stand here",
        ),
        ({"autoencoder": {"device": False}}, "config: autoencoder.device: true or false cannot stand here"),
        ({"scm": {"image": {"formula": "1"}}}, "config: scm.image.formula: '1' names no node"),
        ({"scm": {"nodes": {"age": {}}}}, "config: scm.image.formula: missing"),
        ({"scm": {"nodes": {"age": {"familly": "gamma"}}}}, "unknown key; did you mean 'family'?"),
        (
            {"scm": {"nodes": {"sex": {"levels": []}}, "image": {"formula": "sex"}}},
            "scm.nodes.sex.levels: should be given at least one",
        ),
        ({"scm": {"imputations": 20}}, "config: scm: imputations: 20 needs missing: impute"),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": "+ten"}}]},
            "config: counterfactuals\\[0\\].do: .*is not a number",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": None}}]},
            "config: counterfactuals\\[0\\].do.age: nothing is written there",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": {"from": 50, "to": "+9", "step": 5}}}]},
            "config: counterfactuals\\[0\\].do.age: from and to should be two numbers, like 50 and 90, or two changes",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": {"from": 50, "step": 5}}}]},
            "config: counterfactuals\\[0\\].do.age.to: missing",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": {"from": 50, "to": 90, "step": 0.01}}}]},
            "age has more than 1000 values; take larger steps",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": {"from": 50, "to": 1e15, "step": 1e-300}}}]},
            "age has more than 1000 values; take larger steps",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": [50, 50]}}]},
            "counterfactuals .x.: age: 50 stands twice among its values",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": 1}}, {"name": "x", "do": {"age": 2}}]},
            "two questions are called 'x'",
        ),
        (
            {"counterfactuals": "nowhere.tsv"},
            r"counterfactuals: .*nowhere.tsv is not a file; name a table .TSV. of questions",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": 1}, "scans": "tests"}]},
            "config: counterfactuals .x..scans: 'tests' names no scans; did you mean 'test'",
        ),
        (
            {"counterfactuals": [{"name": "x", "do": {"age": 1}, "scans": "age = 60"}]},
            "config: counterfactuals .x..scans: 'age = 60' cannot be read; write == for",
        ),
        (
            {"counterfactuals": [{"name": "x" * 121, "do": {"age": 1}}]},
            "config: counterfactuals\\[0\\].name: should be a shorter name",
        ),
        (
            {"counterfactuals": [{"name": "x" * 115, "do": {"age": [50, 60]}}]},
            "config: counterfactuals .x{115}.: its member 'x{115}-age5…' has too long a name; shorten",
        ),
        ({"counterfactuals": [{"name": "x", "do": {"ill": True}}]}, 'YAML reads a bare yes.*write "yes"'),
        ({"counterfactuals": [{"name": "x", "do": {"aeg": 3}}]}, "aeg.*'age'"),
    ],
)
def test_a_typo_gets_one_sentence_with_its_place(study: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        load(**study)
    assert "\n" not in str(error.value)


def numbers(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each place of a JSON schema where a number may stand; one that may as well be text has its own rule."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict):
        return
    if schema.get("type") in ("integer", "number"):
        yield path, schema
    if {"type": "string"} not in schema.get("anyOf", []):
        for key, value in schema.items():
            yield from numbers(value, f"{path}.{key}")


def test_every_number_of_the_configuration_has_two_ends() -> None:
    found = dict(numbers(Config.model_json_schema()))
    assert len(found) > 50
    for path, number in found.items():
        assert {"minimum", "exclusiveMinimum"} & number.keys(), path
        assert {"maximum", "exclusiveMaximum"} & number.keys(), path


HUGE = [10**400, 1 << 20_000, -1e308, math.nan]


@pytest.mark.parametrize(
    "place",
    [
        "seed", "autoencoder.max_steps", "autoencoder.learning_rate", "autoencoder.channels", "quality.ncc_fail",
        "quality.volume_warn_ml", "scm.permutations", "scm.image.smoothing_voxels", "workflow.shard_minutes",
        "scm.contrasts.ageing.age", "counterfactuals.do.age", "counterfactuals.do.age.from",
        "counterfactuals.do.age.step", "cohort.filter.run", "cohort.exclude.age",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", HUGE, ids=["beyond a float", "hexadecimal", "negative", "nan"])
def test_a_number_without_bounds_is_refused_in_a_sentence(place: str, value: Any) -> None:
    """YAML reads whole numbers of any size, which no float holds, and hexadecimal ones that Python cannot print."""
    *path, last = place.split(".")
    inner: Any = {last: value}
    if last in ("channels", "volume_warn_ml"):
        inner = {last: [32, value]}
    elif path[:2] == ["scm", "contrasts"]:
        inner = {last: [50, value]}
    elif last in ("from", "step"):
        inner = {"from": 50, "to": 90, "step": 5, last: value}
    for key in reversed(path):
        inner = {key: inner}
    if path[:1] == ["counterfactuals"]:
        inner = {"counterfactuals": [{"name": "x", **inner["counterfactuals"]}]}
    with pytest.raises(ConfigError, match=f"^config: {re.escape(place.split('.')[0])}") as error:
        load(**inner)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert "finite number" in str(error.value) or value == value


def test_a_change_is_bounded_too() -> None:
    for change in ("+" + "9" * 400, "-" + "9" * 30):
        with pytest.raises(ConfigError, match=r"age: [+-]9{19} is too large a number; they may go up to 1e\+09"):
            load(counterfactuals=[{"name": "x", "do": {"age": change}}])


def test_a_key_written_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("seed: 1\ncounterfactuals:\n  - {name: a}\n  - name: b\n    do: {age: 1}\n    name: c\n")
    with pytest.raises(ConfigError, match=r"study.yaml, line 6: 'name' is already written in line 4; keep one"):
        check_study_file(study)
    study.write_text("seed: 1\nscm: {nodes: {age: {unit: years}, sex: {unit: none}}}\n")
    check_study_file(study)
    study.write_text("")
    check_study_file(study)


@pytest.mark.parametrize(
    "text",
    [
        "seed: ?1 + 1\n__use_yte__: true\n",
        '{"seed": 1,\n"__use\\x5fyte__": true}',
        "x: &x\n  __use_yte__: 1\n<<: *x\n",
        "x: &x __use_yte__\n*x : 1\n",
    ],
)
def test_a_template_is_no_study_file(text: str, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(text)
    with pytest.raises(ConfigError, match=r"study.yaml, line [12]: '__use_yte__' makes a program of the file"):
        check_study_file(study)


@pytest.mark.parametrize("key", ["bids_dir", "output_dir"])
def test_a_brace_in_a_path_is_refused_before_snakemake_stumbles_over_it(key: str, tmp_path: Path) -> None:
    folder = tmp_path / "{study}"
    folder.mkdir()
    with pytest.raises(ConfigError, match=rf"config: {key}: .*a brace in it"):
        load(**{"bids_dir": tmp_path, key: folder})


def test_derivatives_are_a_folder_and_part_of_what_models_remember(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config: derivatives: .* is not a folder"):
        load(bids_dir=tmp_path, derivatives=tmp_path / "fmriprep")
    fmriprep = tmp_path / "derivatives" / "fmriprep"
    (fmriprep / "sub-01").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"derivatives has no folder sub-…; did you mean .*derivatives/fmriprep\?"):
        load(bids_dir=tmp_path, derivatives=tmp_path / "derivatives")
    with pytest.raises(ConfigError, match=r"sub-01 has no folder sub-…; set it to the top"):
        load(bids_dir=tmp_path, derivatives=fmriprep / "sub-01")
    (fmriprep / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.0"}]}')
    assert Identity.of(load(bids_dir=tmp_path, derivatives=fmriprep)).derivatives == "fMRIPrep 24.1.0"
    assert Identity.of(load(bids_dir=tmp_path)).derivatives == ""
