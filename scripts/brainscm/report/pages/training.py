"""The autoencoder: how it was trained, and how faithful it is on participants it has and has not seen."""

from __future__ import annotations

from typing import Any

import pandas as pd

from brainscm.errors import ScanError
from brainscm.report import charts, planes, words
from brainscm.report.cells import Context, plain
from brainscm.report.gallery import Gallery
from brainscm.report.pages.scan import fidelity_words
from brainscm.report.study import Study
from brainscm.scans import SPLITS, records

CURVES = {
    "loss": "Training loss",
    "psnr_brain_db": "PSNR in the brain (dB)",
    "quantized_psnr_brain_db": "PSNR in the brain, from codes (dB)",
    "dissimilarity": "1 − SSIM",
    "bits_per_voxel": "Bits a voxel of the codes",
    "codebook_usage": "Share of the codes in use",
    "perplexity": "Perplexity, mean of the codebooks",
    "lr": "Learning rate",
}
NOISY = ("loss",)
SMOOTHED_FROM = 20  # points of a curve
LEAST_POINTS = 3  # of a curve
CODE_FIGURES = ("dead", "perplexity", "bits")
OVERFITTED_DB = 1.5
LOST_BY_CODES_DB = 3.0
DEAD_SHARE = 0.2
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
            *_bits(study),
        ],
        "health": _health(study, parts),
        "codes": _codes(study.codes),
        "rate_distortion": _rate_distortion(study),
        "fidelity": fidelity,
        "regions": _regions(study, reconstruction),
        "histogram": charts.histogram_rows(by_split, "PSNR in the brain (dB)", "Reconstruction PSNR by split"),
        "charts": _curves(study.history),
        "which_psnr": _which_psnr(study),
        "examples": _examples(study, gallery, parts),
        "why_no_examples": "There are no pictures, because no scan could be used.",
        "validations": int((study.history["split"] == "validation").sum()),
        "card": [
            (key.replace("_", " "), _flat(value, key))
            for key, value in study.card.items()
            if key != "metrics"  # the tables above hold them
        ],
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
    return f"There are two PSNRs: that of validations is of {what}; that of the table above is of {rest}."


def _span(values: pd.Series) -> str:
    return words.with_range(float(values.mean()), float(values.min()), float(values.max()))


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


def _bits(study: Study) -> list[Context]:
    bits = study.card.get("bits_per_voxel")
    if bits is None:
        return []
    return [
        {
            "label": "What the codes take",
            "value": f"{bits:.2f} bits a voxel",
            "note": "entropy of the validation split’s codes, without the displacement",
        }
    ]


def _health(study: Study, parts: dict[str, pd.DataFrame]) -> list[Context]:
    """Whether latent, codes and training are well, each in a sentence with its figures."""
    if study.codes.empty:
        return []
    unseen = parts["test"] if len(parts["test"]) else parts["validation"]
    told = []
    if len(unseen):
        seen_db, unseen_db = (part["psnr_brain_db"].mean() for part in (parts["train"], unseen))
        told.append(
            _verdict(
                "Latent",
                seen_db - unseen_db < OVERFITTED_DB,
                f"{words.signed(f'{unseen_db - seen_db:+.1f}')} dB on participants not trained on",
                "the autoencoder knows its training scans by heart; train it on more scans or for fewer steps",
            )
        )
        lost = unseen_db - unseen["quantized_psnr_brain_db"].mean()
        dead = _dead(study.codes)
        told.append(
            _verdict(
                "Codes",
                lost < LOST_BY_CODES_DB and dead < DEAD_SHARE,
                f"decoding from codes loses {lost:.1f} dB more; {100 * dead:.0f} % of the codes occur in no training "
                "scan",
                "use decode: quantized and the archive of codes with care; a smaller autoencoder.quantizer_step, or "
                "other codebooks, lose less",
            )
        )
    curve = study.history.loc[study.history["split"] == "validation", "psnr_brain_db"].dropna()
    if len(curve) > 1:
        gain = curve.max() - curve.iloc[0]
        told.append(
            _verdict(
                "Training",
                gain >= 0,
                f"the network adds {gain:.2f} dB to its linear start on the validation split",
                "every step has made it worse; lower autoencoder.learning_rate",
            )
        )
    return told


def _verdict(what: str, is_well: bool, told: str, advice: str) -> Context:
    return {"what": what, "is_well": is_well, "told": told if is_well else f"{told}: {advice}"}


def _dead(codes: pd.DataFrame) -> float:
    """The share of codes that occur in no training scan."""
    of_training = codes[codes["split"] == "train"]
    return float(of_training["dead"].sum() / of_training["codes"].sum())


def _codes(codes: pd.DataFrame) -> list[Context]:
    """A row a codebook: what the training and the validation split make of it."""
    rows = []
    for number, part in codes.groupby("codebook"):
        of_split = part.set_index("split")
        row = {"codebook": f"{number}", "codes": f"{of_split['codes'].iloc[0]:,}"}
        for split in of_split.index:
            row |= {f"{name}_{split}": words.number(plain(of_split.at[split, name])) for name in CODE_FIGURES}
        rows.append(row)
    return rows


def _curves(history: pd.DataFrame) -> list[Context]:
    """A chart a column of the history that has enough points to be a curve."""
    curves = []
    for column, caption in CURVES.items():
        if column not in history or not history.groupby("split")[column].count().max() >= LEAST_POINTS:  # NaN: no rows
            continue
        parts = {str(split): part for split, part in history.groupby("split") if part[column].notna().any()}
        if column == "lr":
            parts = {"train": history.drop_duplicates("step")}
        series = {split: (part["step"].tolist(), part[column].tolist(), split) for split, part in parts.items()}
        for split, part in parts.items():
            if column in NOISY and len(part) > SMOOTHED_FROM:
                steps, values, style = series.pop(split)
                series |= {f"{split}, as it was": (steps, values, f"{style} faint")}
                series |= {split: (steps, _smoothed(part[column]), style)}
                caption = f"{CURVES[column]}; the strong line is the median about each step"
        curves.append({"drawing": planes.lines(series, "step", caption), "caption": caption})
    return curves


def _smoothed(values: pd.Series) -> list[float]:
    """The running median, which a single bad step does not move."""
    window = 2 * (len(values) // (2 * SMOOTHED_FROM)) + 3
    return values.rolling(window, center=True, min_periods=1).median().tolist()


def _rate_distortion(study: Study) -> Context | None:
    """What the codes take and what is lost by them, at each validation of the training; the kept weights are marked."""
    history = study.history
    if not {"bits_per_voxel", "quantized_psnr_brain_db"} <= set(history):
        return None
    rows = history[(history["split"] == "validation")].dropna(subset=["bits_per_voxel", "quantized_psnr_brain_db"])
    if len(rows) < LEAST_POINTS:
        return None
    steps = rows["step"].tolist()
    best = study.card.get("best_step")
    kept = steps.index(best) if best in steps else len(steps) - 1
    points = [
        planes.Point(
            row["bits_per_voxel"],
            row["quantized_psnr_brain_db"],
            f"step {row['step']:,.0f}: {row['bits_per_voxel']:.2f} bits a voxel, "
            f"{row['quantized_psnr_brain_db']:.1f} dB from codes",
            "validation",
        )
        for row in records(rows)
    ]
    title = "Rate and distortion of the codes: PSNR in the brain from codes against bits a voxel"
    drawing = planes.way(points, kept, "bits a voxel of the codes", "PSNR in the brain, from codes (dB)", title)
    lost = float((rows["psnr_brain_db"] - rows["quantized_psnr_brain_db"]).iloc[kept])
    return {"drawing": drawing, "lost_db": f"{lost:.1f}"}


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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        said = {key: item for key, item in value.items() if item not in (None, "")}
        return "; ".join(f"{key.replace('_', ' ')} {_flat(item, key)}" for key, item in said.items())
    if isinstance(value, list):
        between = " × " if name.endswith("shape") else "; " if any(isinstance(item, list) for item in value) else ", "
        return between.join(_flat(item) for item in value)
    return words.number(value, 4) if isinstance(value, int | float) else str(value)
