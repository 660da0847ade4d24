"""The autoencoder: how it was trained, and how faithful it is on participants it has and has not seen."""

from __future__ import annotations

from typing import Any

import pandas as pd

from brainscm.errors import ScanError
from brainscm.report import charts, words
from brainscm.report.cells import Context, plain
from brainscm.report.gallery import Gallery
from brainscm.report.pages.scan import fidelity_words
from brainscm.report.study import Study
from brainscm.scans import SPLITS

CURVES = {
    "loss": "Training loss",
    "psnr_brain_db": "PSNR in the brain (dB)",
    "dissimilarity": "1 − SSIM",
    "codebook_usage": "Share of the codebook in use",
    "perplexity": "Perplexity of the codebook",
    "lr": "Learning rate",
}
KINDS = {"vqvae": "a 3D VQ-VAE", "pca": "principal components"}


def context(study: Study, gallery: Gallery | None) -> Context:
    kind, reconstruction = study.config.autoencoder.kind, study.reconstruction
    parts = {split: reconstruction[reconstruction["split"] == split] for split in SPLITS}
    test = parts["test"]
    fidelity = [
        {"split": split, "scans": f"{len(part):,}", **{c: _span(part[c]) for c in study.fidelity}}
        for split, part in parts.items()
        if len(part)
    ]
    by_split = {split: part["psnr_brain_db"].tolist() for split, part in parts.items()}
    return {
        "lead": (
            f"Brains are encoded by {KINDS.get(kind, f'the encoder {kind}')}, "
            f"fitted on {words.plural(len(parts['train']), 'training scan')}."
        ),
        "figures": [
            {
                "label": "PSNR in the brain, test split",
                "value": f"{test['psnr_brain_db'].mean():.1f} dB" if len(test) else None,
                "note": "10 log₁₀(1 / mean squared error), white matter = 1" if len(test) else "no usable test scan",
            },
            {
                "label": "SSIM in the brain, test split",
                "value": f"{test['ssim_brain'].mean():.3f}" if len(test) else None,
                "note": "1 is identical" if len(test) else "no usable test scan",
            },
            *_codebook(study.history),
        ],
        "fidelity": fidelity,
        "regions": _regions(study, reconstruction),
        "histogram": charts.histogram_rows(by_split, "PSNR in the brain (dB)", "Reconstruction PSNR by split"),
        "charts": _curves(study.history),
        "which_psnr": _which_psnr(study),
        "examples": _examples(study, gallery, parts),
        "why_no_examples": "There are no pictures, because no scan could be used.",
        "card": [(key.replace("_", " "), _flat(value, key)) for key, value in study.card.items()],
    }


def _which_psnr(study: Study) -> str:
    """Why the curve of the validation split ends elsewhere than the table says."""
    if study.config.autoencoder.kind != "vqvae":
        return ""
    aligned = study.config.autoencoder.alignment == "deformable"
    what = (
        "what the network draws, the appearance of each scan once it is brought to the template’s anatomy"
        if aligned
        else "what the network draws at that step"
    )
    rest = (
        "the whole way: the drawn appearance taken back to the scan’s own anatomy and compared with the scan itself, "
        "which costs some dB more"
        if aligned
        else "the weights that were kept, which are those of the best step"
    )
    return f"Two PSNRs are shown. The curve measures {what}; the table above measures {rest}."


def _span(values: pd.Series) -> str:
    low, high = words.number(plain(values.min())), words.number(plain(values.max()))
    return f"{words.number(plain(values.mean()))} ({low}–{high})"


def _regions(study: Study, reconstruction: pd.DataFrame) -> list[Context]:
    """How wrong the reconstructed regional volumes of participants not trained on are."""
    held_out = reconstruction[reconstruction["split"] != "train"]
    rows = []
    for column in (str(column) for column in held_out if str(column).endswith("_error_ml")):
        errors = held_out[column].dropna()
        if len(errors):
            rows.append(
                {
                    "region": study.measure(column.replace("_error_ml", "_ml")).label,
                    "bias": words.number(plain(errors.mean())),
                    "absolute": words.number(plain(errors.abs().mean())),
                    "worst": words.number(plain(errors.abs().max())),
                }
            )
    return rows


def _codebook(history: pd.DataFrame) -> list[Context]:
    usage = history["codebook_usage"].dropna()
    if usage.empty:
        return []
    perplexity = history["perplexity"].dropna()
    return [
        {
            "label": "Codebook in use",
            "value": f"{100 * usage.iloc[-1]:.0f} %",
            "note": f"on the validation split; perplexity {words.number(plain(perplexity.iloc[-1]))}",
        }
    ]


def _curves(history: pd.DataFrame) -> list[Context]:
    curves = []
    for column, caption in CURVES.items():
        if column not in history or history[column].notna().sum() < 2:
            continue
        parts = {str(split): part for split, part in history.groupby("split") if part[column].notna().any()}
        if column == "lr":
            parts = {"train": history.drop_duplicates("step")}
        series = {split: (part["step"].tolist(), part[column].tolist(), split) for split, part in parts.items()}
        curves.append({"drawing": charts.lines(series, "step", caption), "caption": caption})
    return curves


def _examples(study: Study, gallery: Gallery | None, parts: dict[str, pd.DataFrame]) -> list[Context]:
    """Best, median and worst reconstruction of each split."""
    if gallery is None:
        return []
    drawn = []
    for split, part in parts.items():
        ordered = part.sort_values("psnr_brain_db")["scan"].tolist()
        places = (
            {"best": -1, "median": len(ordered) // 2, "worst": 0}
            if len(ordered) > 2
            else dict.fromkeys(["only"][: len(ordered)], 0)
        )
        for label, place in places.items():
            row = study.rows[ordered[place]]
            caption = f"{split}, {label}: {row['scan']}. {fidelity_words(row)}"
            try:
                drawn.append(gallery.reconstruction(row["scan"]) | {"caption": caption})
            except ScanError:
                continue  # the scan's own page says why
    return drawn


def _flat(value: Any, name: str = "") -> str:
    if name == "seed":
        return str(value)  # a number that counts nothing
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_flat(item, key)}" for key, item in value.items())
    if isinstance(value, list):
        return (
            " × ".join(_flat(item) for item in value)
            if all(isinstance(v, int) for v in value)
            else ", ".join(map(_flat, value))
        )
    return words.number(value, 4) if isinstance(value, int | float) else str(value)
