"""The run summary, printed at the end: how the scans fared, which failed and why, and where the report is."""

from __future__ import annotations

from pathlib import Path

from brainscm.tables import read_table

FAILURES_SHOWN = 20


def run_summary(results: Path) -> str:
    """A few lines about the results folder as it is now; empty while nothing has been preprocessed.

    A report that is older than what it reports is not offered as this run's.
    """
    qc_path, index = results / "preproc" / "qc.tsv", results / "report" / "index.html"
    if not qc_path.exists():
        return ""
    qc = read_table(qc_path)
    counts = qc["status"].value_counts()
    lines = [f"{len(qc)} scans: " + ", ".join(f"{counts.get(key, 0)} {key}" for key in ("pass", "warn", "fail")) + "."]
    failed = qc[qc["status"] == "fail"]
    lines += [f"  {row.scan}: {row.reasons}" for row in failed.head(FAILURES_SHOWN).itertuples()]
    if len(failed) > FAILURES_SHOWN:
        lines.append(f"  and {len(failed) - FAILURES_SHOWN} more, in {qc_path}")
    reported = [path for path in (qc_path, results / "evaluation" / "summary.json") if path.exists()]
    if index.exists() and all(index.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in reported):
        lines.append(f"The report: {index.absolute()}")
    else:
        lines.append(f"The table of all scans: {qc_path.absolute()}")
    return "\n".join(lines)
