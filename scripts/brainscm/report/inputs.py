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
    "nodes": "scm/nodes.tsv",
    "tests": "scm/tests.tsv",
    "implications": "scm/implications.tsv",
    "diagnostics": "scm/diagnostics.tsv",
    "places": "scm/participants.tsv",
    "regional_effects": "scm/regional_effects.tsv",
    "manifest": "counterfactuals/manifest.tsv",
    "summary": "evaluation/summary.json",
    "metrics": "evaluation/metrics.tsv",
    "regional_slopes": "evaluation/regional_slopes.tsv",
    "minimality": "evaluation/minimality.tsv",
    "realism": "evaluation/realism.tsv",
}
INPUTS = {
    "scans": "cohort/scans.tsv",
    "qc": "preproc/qc.tsv",
    "model": "autoencoder/model.pt",
    "latents": "latents/latents.zarr",
    **TABLES,
}
