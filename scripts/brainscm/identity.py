"""What makes scans comparable: a model, its latents and its results remember it, and it is compared here alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from brainscm.config import Config, CustomTemplate
from brainscm.errors import BrainSCMError
from brainscm.files import sha256, space_fields
from brainscm.provenance import options_fingerprint


class Identity(BaseModel):
    """How scans were brought to template space, and, of latents and what follows, which model encoded them.

    `template` is its name, and `template_sha256` what its files hold, for one of the study's own.
    `derivatives` names the program whose masks were taken; "" for our own.
    `encoder` is the SHA-256 of the model file; "" for scans that are not encoded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    template_sha256: str = ""
    voxel_mm: float
    transform: Literal["rigid", "similarity", "affine"]
    derivatives: str = ""
    encoder: str = ""

    @classmethod
    def of(cls, config: Config) -> Identity:
        """Of the scans that a study preprocesses; a template of its own is read."""
        options, template = config.preprocess, config.template
        name, content = template, ""
        if isinstance(template, CustomTemplate):
            name, content = template.name, options_fingerprint([sha256(template.t1w), sha256(template.brain_mask)])
        return cls(
            template=name,
            template_sha256=content,
            voxel_mm=options.voxel_mm,
            transform=options.transform,
            derivatives=_generator(config.derivatives) if config.derivatives else "",
        )

    def encoded_by(self, model_sha256: str) -> Identity:
        return self.model_copy(update={"encoder": model_sha256})

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a side-car or a rule's parameter; `Identity.model_validate` takes them back."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        return values

    @property
    def space(self) -> dict[str, str]:
        """What BIDS side-cars say of an image in template space."""
        return space_fields(self.template, self.voxel_mm)

    def check(self, other: Identity, here: str, there: str, mend: str) -> None:
        """Make sure that what lies `here`, of this identity, may be used with what lies `there`, of the other.

        Raises:
            BrainSCMError: one sentence with both places, what differs, and what to do (`mend`).
        """
        own, others = self.as_json(), other.as_json()
        differing = [key for key in own if own[key] != others[key]]
        if differing == ["encoder"]:
            raise BrainSCMError(f"{here} and {there} are of two different models; {mend}.")
        if differing:
            told = "; ".join(f"{key} is {own[key]!r} here and {others[key]!r} there" for key in differing)
            raise BrainSCMError(f"{here} and {there}: their scans were preprocessed differently ({told}); {mend}.")


def _generator(derivatives: Path) -> str:
    """The program that made a folder of derivatives, with its version, as far as the folder says."""
    try:
        described = json.loads((derivatives / "dataset_description.json").read_text(encoding="utf-8"))
        program = described["GeneratedBy"][0]
        return f"{program['Name']} {program.get('Version', '')}".strip()
    except (OSError, ValueError, LookupError, TypeError):
        return "unknown"
