"""What the report is made from, and where in the results folder it lies: the rule and `Study.read` take it from here.

This module imports nothing, because the Snakefile does.
"""

# Tables (TSV) and documents (JSON), by their attribute of `Study`; docs/reference/outputs.md tells their columns.
TABLES = {
    "excluded": "cohort/excluded.tsv",
    "notes": "cohort/notes.tsv",
    "history": "autoencoder/history.tsv",
    "codes": "autoencoder/codes.tsv",
    "card": "autoencoder/model.json",
    "reconstruction": "autoencoder/reconstruction.tsv",
    "sample": "scm/covariates.tsv",
    "nodes": "scm/nodes.tsv",
    "tests": "scm/tests.tsv",
    "implications": "scm/implications.tsv",
    "formulas": "scm/formulas.tsv",
    "diagnostics": "scm/diagnostics.tsv",
    "residuals": "scm/residuals.tsv",
    "places": "scm/people.tsv",
    "regional_effects": "scm/regional_effects.tsv",
    "manifest": "counterfactuals/manifest.tsv",
    "regions": "counterfactuals/regions.tsv",
    "summary": "evaluation/summary.json",
    "metrics": "evaluation/metrics.tsv",
    "regional_slopes": "evaluation/regional_slopes.tsv",
    "minimality": "evaluation/minimality.tsv",
    "realism": "evaluation/realism.tsv",
}
INPUTS = {
    "scans": "cohort/scans.tsv",
    "qc": "preproc/qc.tsv",
    "reconstructions": "autoencoder/reconstructions",
    "latents": "latents/latents.zarr",
    "model": "autoencoder/model.pt",
    **TABLES,
}
# What has a part of each scan, so that another scan changes it: a page of one scan needs to know of its own part only.
OF_EACH_SCAN = ("scans", "qc", "latents", "excluded", "notes", "manifest", "regions")
REFUTATION = "scm/refutation.tsv"  # is there once it was asked for
# Of a study that puts its scans to a bundle: what the bundle holds of the above, what there is beside it, and what
# there cannot be, since nothing is trained, fitted or evaluated.
BUNDLED = ("card", "nodes", "tests", "implications", "formulas", "diagnostics", "regional_effects")
OF_NEW_SCANS = {
    "support": "support/scans.tsv",
    "reconstruction": "support/reconstruction.tsv",
    "reconstructions": "support/reconstructions",
}
ABSENT = (
    "model",
    "history",
    "codes",
    "sample",
    "residuals",
    "places",
    "summary",
    "metrics",
    "regional_slopes",
    "minimality",
    "realism",
)


def report_inputs(results: str, bundle: str | None) -> dict[str, str]:
    """Where each of the inputs lies, for a study of its own or one that puts its scans to a bundle."""
    if bundle is None:
        return {name: f"{results}/{path}" for name, path in INPUTS.items()}
    there = {name: path for name, path in {**INPUTS, **OF_NEW_SCANS}.items() if name not in ABSENT}
    return {name: f"{bundle if name in BUNDLED else results}/{path}" for name, path in there.items()}
