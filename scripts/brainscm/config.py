"""Every option of config.yaml, typed; the JSON schema in schemas/ is generated from these models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Scalar = float | int | str
# A path as one writes it in a terminal: ~ is the home folder.
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        values = value if isinstance(value, list) else [value]
        if (
            any(isinstance(each, bool) for each in values)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError("true or false cannot stand here (YAML reads a bare yes, no, on or off so)")
        return value


class SimulationOptions(Options):
    """The simulated cohort that is used while `bids_dir` is null.

    `rescan_share` of the people are scanned once more on the same day: how far two measurements of one head lie apart.
    """

    participants: int = Field(30, ge=8)
    voxel_mm: float = Field(3.0, ge=1, le=4)
    follow_up_share: float = Field(0.3, ge=0, le=1)
    rescan_share: float = Field(0.0, ge=0, le=1)
    truncated_scans: int = Field(1, ge=0)


class SplitOptions(Options):
    train: Fraction = 0.7
    validation: Fraction = 0.1
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitOptions:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}; make it 1")
        return self


class CohortOptions(Options):
    split: SplitOptions = SplitOptions()
    stratify: list[str] = ["age", "sex"]


class CustomTemplate(Options):
    """A whole-head or skull-stripped T1w with its brain mask (or the brain alone), on one grid."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
    t1w: UserPath
    brain_mask: UserPath


class AtlasOptions(Options):
    """A label map in the template's space, and a table (TSV) that names its labels: columns `index` and `name`."""

    path: UserPath
    labels: UserPath


class PreprocessOptions(Options):
    """What shapes a preprocessed scan: the output grid and the transform to the template; and what is measured."""

    voxel_mm: float = Field(2.0, ge=0.7, le=4)
    transform: Literal["rigid", "similarity", "affine"] = "affine"
    atlas: AtlasOptions | None = None


class QualityOptions(Options):
    """The limits at which a preprocessed scan warns or fails; docs/qc.md says what each is like on good scans.

    `ncc`: correlation with the template inside the mask. `volume`: intracranial mask, ml. `border`: area of the mask on
    the faces of the field of view, cm². `fov_cut`: share of the brain beyond the field of view. `holes`: volume inside
    the mask without signal, ml. `slice_jump`: difference of neighbouring slices over that of those around. `cnr`:
    grey-white contrast-to-noise. `contrast`: white matter over grey matter. `volume_z`: robust z of the mask volume
    within the cohort.
    """

    ncc_warn: float = Field(0.42, ge=0, le=1)
    ncc_fail: float = Field(0.3, ge=0, le=1)
    volume_warn_ml: tuple[float, float] = (950, 2050)
    volume_fail_ml: tuple[float, float] = (700, 2500)
    border_warn_cm2: float = Field(8.0, ge=0)
    border_fail_cm2: float = Field(60.0, ge=0)
    fov_cut_warn_percent: float = Field(2.0, ge=0)
    fov_cut_fail_percent: float = Field(15.0, ge=0)
    holes_warn_ml: float = Field(5.0, ge=0)
    holes_fail_ml: float = Field(200.0, ge=0)
    slice_jump_warn: float = Field(1.8, ge=1)
    cnr_warn: float = Field(1.8, ge=0)
    cnr_fail: float = Field(0.8, ge=0)
    contrast_warn: float = Field(1.1, ge=0)
    contrast_fail: float = Field(1.0, ge=0)
    volume_z_warn: float = Field(4.0, gt=0)


class AutoencoderOptions(Options):
    """Each of `channels` halves the grid once; `quantized_share` of the training volumes is decoded from codes.

    `alignment: deformable` encodes a scan as its displacement to the template and its looks there.
    `deformation_voxels` is the root mean square of random smooth warps of the training volumes. With `recompute` the
    residual blocks keep nothing for the backward pass and are computed again: slower, in less memory.
    """

    kind: Literal["vqvae", "pca"] = "vqvae"
    alignment: Literal["deformable", "none"] = "deformable"
    channels: list[Annotated[int, Field(ge=4)]] = Field([32, 64], min_length=1)
    residual_blocks: int = Field(2, ge=0)
    latent_channels: int = Field(16, ge=1)
    quantizer: Literal["ema", "fsq"] = "ema"
    fsq_levels: int = Field(5, ge=2, le=255)
    codebook_size: int = Field(512, ge=2)
    codebook_decay: Fraction = 0.99
    commitment_weight: float = Field(0.25, ge=0)
    quantized_share: float = Field(0.1, ge=0, le=1)
    intensity_loss: Literal["charbonnier", "l1"] = "charbonnier"
    ssim_weight: float = Field(0.1, ge=0)
    gradient_weight: float = Field(0.0, ge=0)
    fourier_weight: float = Field(0.0, ge=0)
    deformation_voxels: float = Field(0.0, ge=0, le=3)
    recompute: bool = False
    compile: bool = False
    components: int = Field(32, ge=1)
    batch_size: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    max_steps: int | None = Field(None, ge=1)
    validation_interval: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class NodeOptions(Options):
    """A node of the graph. Without a formula it is exogenous.

    `column` names the table column that holds it: by default the node's own name, or that name with `_ml` where
    preprocessing measured it. The first of `levels` is the reference. The default family is gaussian for numbers,
    binomial for two levels and multinomial for more.
    """

    column: str | None = None
    levels: list[str] | None = Field(None, min_length=1)
    unit: str | None = None
    formula: str | None = None
    family: Literal["gaussian", "gamma", "poisson", "binomial", "multinomial", "ordered"] | None = None

    @field_validator("levels", mode="before")
    @classmethod
    def _levels_are_text(cls, levels: Any) -> Any:
        if isinstance(levels, list):
            if any(isinstance(level, bool) for level in levels):
                raise ValueError('a level is true or false; YAML reads a bare yes, no, on or off so: write "yes", "no"')
            return [str(level) if isinstance(level, int) else level for level in levels]
        return levels


class ImageOptions(Options):
    """The image node: its formula, how it is estimated, and whose errors its tests use.

    `shrinkage`: of the slopes, `spectral` (empirical Bayes) or `ridge` (generalised cross-validation). `rank`: slopes
    of at most this rank. `smoothing_voxels`: standard deviation, in latent voxels, of a Gaussian over the slopes' maps.
    `variance_by`: a node with levels whose groups differ in residual variance. `repeated`: what is done about several
    scans of a person. `errors`: of the tests where each person has one scan.
    """

    formula: str
    shrinkage: Literal["spectral", "ridge", "none"] = "spectral"
    rank: int | None = Field(None, ge=1)
    smoothing_voxels: float = Field(0.0, ge=0)
    variance_by: str | None = None
    repeated: Literal["cluster", "random_intercept"] = "cluster"
    errors: Literal["ordinary", "hc3"] = "ordinary"

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> ImageOptions:
        if self.shrinkage != "none" and self.rank is not None:
            raise ValueError("rank and shrinkage shrink the same slopes; beside rank write shrinkage: none")
        if self.variance_by is not None and self.repeated == "random_intercept":
            raise ValueError("variance_by and repeated: random_intercept are two ways to weigh scans; choose one")
        return self


class ScmOptions(Options):
    """The graph, its contrasts, and what is done about missing covariates.

    `missing`: `drop` leaves such scans out; `impute` fills in nodes with a formula from their parents. `permutations`:
    of the family-wise test; 0 for none.
    """

    nodes: dict[Name, NodeOptions]
    image: ImageOptions
    contrasts: dict[Name, dict[str, tuple[Scalar, Scalar]]] = {}
    missing: Literal["drop", "impute"] = "drop"
    permutations: int = Field(500, ge=0)


class QueryOptions(Options):
    """One counterfactual question, put to each of `scans`."""

    name: Name
    do: dict[str, Scalar] = Field(min_length=1)
    scans: Literal["test", "all"] | list[str] = "test"
    effect: Literal["total", "direct"] = "total"
    decode: Literal["residual", "direct", "quantized"] = "residual"

    @field_validator("do", mode="before")
    @classmethod
    def _no_truth_values(cls, do: Any) -> Any:
        for node, value in do.items() if isinstance(do, dict) else ():
            if isinstance(value, bool):
                raise ValueError(
                    f'the value of {node} is true or false; YAML reads a bare yes, no, on or off so: write "yes", "no"'
                )
        return do

    @field_validator("do")
    @classmethod
    def _relative_needs_number(cls, do: dict[str, Scalar]) -> dict[str, Scalar]:
        for node, value in do.items():
            if isinstance(value, str) and re.match(r"^[+-]", value) and not re.match(r"^[+-]\d+(\.\d+)?$", value):
                raise ValueError(f'{{{node}: "{value}"}} is not a number; write a change as "+10" or "-5.5"')
        return do


class Config(Options):
    bids_dir: UserPath | None = None
    dicom_dir: UserPath | None = None
    output_dir: UserPath = Path("results")
    work_dir: UserPath = Path("work")
    seed: int = Field(20260101, ge=0)
    simulation: SimulationOptions = SimulationOptions()
    cohort: CohortOptions = CohortOptions()
    template: str | CustomTemplate = "MNI152NLin2009aSym"
    preprocess: PreprocessOptions = PreprocessOptions()
    quality: QualityOptions = QualityOptions()
    autoencoder: AutoencoderOptions = AutoencoderOptions()
    scm: ScmOptions = ScmOptions(
        nodes={"age": NodeOptions(unit="years"), "sex": NodeOptions()}, image=ImageOptions(formula="age + sex")
    )
    counterfactuals: list[QueryOptions] = []

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if self.bids_dir and self.dicom_dir:
            raise ValueError("bids_dir and dicom_dir are both given; keep the one that holds the scans")
        return self
