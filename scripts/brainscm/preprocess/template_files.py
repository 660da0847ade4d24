"""Where a template's files lie, found without reading them, so that a wrong name stops a study before it starts."""

from __future__ import annotations

import os
from pathlib import Path

from brainscm.config import CustomTemplate
from brainscm.errors import ConfigError

EMBEDDED = "MNI152NLin2009aSym"  # in nilearn's wheel


def check_template(template: str | CustomTemplate) -> None:
    """Check that a template's files exist.

    Raises:
        ConfigError: the name is unknown, or a file is missing.
    """
    if template == EMBEDDED:
        return
    files = templateflow_files(template) if isinstance(template, str) else template
    for key, path in (("t1w", files.t1w), ("brain_mask", files.brain_mask)):
        if not path.is_file():
            raise ConfigError(
                f"config: template.{key}: {path.absolute()} is not a file; correct the path (a relative one starts at "
                "the folder in which snakemake is called)."
            )


def templateflow_files(name: str) -> CustomTemplate:
    """A template that lies in the folder named by TEMPLATEFLOW_HOME, best resolution first.

    Raises:
        ConfigError: it is not there, or lacks a file.
    """
    home = os.environ.get("TEMPLATEFLOW_HOME")
    folder = Path(home) / f"tpl-{name}" if home else None
    if folder is None or not folder.is_dir():
        raise ConfigError(
            f"config: template: {name} is neither {EMBEDDED} (embedded) nor a folder tpl-{name} under "
            f"$TEMPLATEFLOW_HOME ({home or 'not set'}); copy it there, or give your own {{name, t1w, brain_mask}}."
        )
    for resolution in ("_res-01", "_res-1", "_res-02", "_res-2", ""):
        mask = folder / f"tpl-{name}{resolution}_desc-brain_mask.nii.gz"
        for t1w in (f"tpl-{name}{resolution}_T1w.nii.gz", f"tpl-{name}{resolution}_desc-brain_T1w.nii.gz"):
            if mask.is_file() and (folder / t1w).is_file():
                return CustomTemplate(name=name, t1w=folder / t1w, brain_mask=mask)
    raise ConfigError(
        f"config: template: {folder} holds no T1w with a desc-brain_mask at one resolution; "
        "fetch both with TemplateFlow."
    )
