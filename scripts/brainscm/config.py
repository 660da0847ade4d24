"""Every option of the configuration: its type, default, range, unit and description, written once and here.

A class is a section of config.yaml (or an entry of one of its lists); its docstring says what the section is for, the
text below a field what the option does. config.yaml, the JSON schema in schemas/ and the page
docs/reference/configuration.md are written from these models by `make schema`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


def unit(name: str) -> Any:
    """What a number counts, to stand beside its range."""
    return Field(json_schema_extra={"unit": name})


NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
LONGEST_NAME = 120  # it is a part of file names, which may have 255 bytes
Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Percent = Annotated[float, Field(ge=0, le=100), unit("%")]
Millilitres = Annotated[float, Field(ge=0, le=10_000), unit("ml")]
Weight = Annotated[float, Field(ge=0, le=1000)]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]
LARGEST = 10**15  # up to it a float holds every whole number


def _is_bounded(value: float | int | str) -> float | int | str:
    """Python's whole numbers have no end, and beyond a float's an error has no sentence."""
    if not isinstance(value, str) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"numbers may go up to {LARGEST:g}")
    return value


Scalar = Annotated[float | int | str, AfterValidator(_is_bounded)]
# A path as one writes it in a terminal: ~ is the home folder.
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

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
    """The simulated cohort, used only while neither `bids_dir` nor `dicom_dir` is given."""

    participants: int = Field(30, ge=8, le=100_000)
    """Participants whose scans can be used."""
    voxel_mm: Annotated[float, unit("mm")] = Field(3.0, ge=1, le=4)
    """Voxel size of the simulated scans; one of the two sites has thicker slices."""
    follow_up_share: float = Field(0.3, ge=0, le=1)
    """Share of the participants who are scanned again, 2 to 8 years later."""
    rescan_share: float = Field(0.0, ge=0, le=1)
    """Share of the participants who are scanned twice on one day, which tells the evaluation how far two measurements
    of one head lie apart."""
    truncated_scans: int = Field(1, ge=0, le=1000)
    """Further participants whose file is cut short, to show what happens to a bad scan."""
    anatomies: UserPath | None = None
    """Folder of whole-head label maps of real people (FreeSurfer's numbers; 500 and above outside the brain), which the
    heads are made from; null: one head that comes along. Participants of one map are in one part of the split."""


class SplitOptions(Options):
    """Shares of the participants in the three parts, which sum to 1, or a column that says the part of each. All scans
    of a participant are in one part."""

    train: Fraction = 0.7
    """Everything that is fitted is fitted on these."""
    validation: Fraction = 0.1
    """Watched during training: the weights that do best here are kept."""
    test: Fraction = 0.2
    """Seen by nothing that is fitted. Queries are put to these scans unless they say otherwise."""
    column: str | None = Field(None, min_length=1)
    """Column of `participants.tsv` or of the sessions tables that says `train`, `validation` or `test` for each
    participant. The shares and `stratify` are then not used."""
    group: str | None = Field(None, min_length=1)
    """Column that says who belongs together (a family, a site; a simulated participant's `anatomy`): all of a group are
    in one part. `stratify` is then not used."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitOptions:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}; make it 1")
        return self


class CohortOptions(Options):
    """Which scans are analysed, and how the participants are divided."""

    participants: list[str] | None = Field(None, min_length=1)
    """Only these participants, as `[sub-01, sub-02]`; null: all."""
    sessions: list[str] | None = Field(None, min_length=1)
    """Only these sessions, as `[ses-1]`; null: all."""
    filter: dict[str, Scalar | list[Scalar]] = {}
    """Only T1w files whose names say so, in BIDS's words: `{acquisition: mprage, run: 1}`. Known are `acquisition`,
    `ceagent`, `reconstruction`, `run`, `echo`, `inversion`, `part`, and `suffix` (`UNIT1` takes the uniform images of
    MP2RAGE)."""
    exclude: list[str] | str | dict[str, Scalar | list[Scalar]] = []
    """Scans to leave out: a list of scan or participant ids, a column that says yes for them, what they are, in BIDS's
    words or by columns: `{diagnosis: [AD], acquisition: lowres}`, or the ratings that the report saved:
    `ratings.tsv`. The others keep their split."""
    split: SplitOptions = SplitOptions()
    stratify: list[str] = ["age", "sex"]
    """Covariates in which the three parts are made alike: columns of `participants.tsv` or of the sessions tables."""


class CustomTemplate(Options):
    """A template of your own is a T1w and its brain mask, on one grid."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$", max_length=60)]
    """How file names call it (`space-<name>`)."""
    t1w: UserPath
    """The T1w (NIfTI), of the whole head or skull-stripped."""
    brain_mask: UserPath
    """Its brain mask, or the brain alone."""


def read_template(value: Any) -> str | CustomTemplate:
    """The option `template` from the plain values that a rule's parameters hold."""
    return value if isinstance(value, str) else CustomTemplate.model_validate(value)


class AtlasOptions(Options):
    """An atlas is a label map and a table of its labels."""

    path: UserPath
    """Label map (NIfTI) in the template's space. MNI152 templates of different makers differ by millimetres."""
    labels: UserPath
    """Table (TSV) that names the labels: columns `index` and `name`."""


class PreprocessOptions(Options):
    """How a raw scan is brought to the template, and what is measured there."""

    voxel_mm: Annotated[float, unit("mm")] = Field(2.0, ge=0.7, le=4)
    """Voxel size of the template-space grid that everything after preprocessing works on."""
    input: Literal["auto", "head", "brain"] = "auto"
    """Whether scans are whole heads or skull-stripped brains. `auto` looks at each: where the surroundings are empty
    and what is left has the size of a brain, that is taken for the mask, and brain is registered to brain."""
    skull_strip: Literal["auto", "ants", "deepbet"] = "auto"
    """What finds the brain in a whole head. `auto`: the network deepbet says where it is and outlines it, ANTs
    registers the template from there, and the two outlines are brought together; `ants` searches and registers without
    a network; `deepbet` takes the network's outline as it is."""
    transform: Literal["rigid", "similarity", "affine"] = "affine"
    """How the analysed image is brought to the template. A rigid transform keeps size and shape, a similarity scales,
    an affine one also scales each axis by itself and shears. Never a deformation: the anatomy is what is analysed."""
    atlas: AtlasOptions | None = None
    """The volumes of an atlas's regions are measured in every scan, and nodes may be named after them."""


class QualityOptions(Options):
    """When a preprocessed scan warns or fails.

    The limits are applied when the cohort is collected, so that another limit preprocesses nothing again.
    """

    ncc_fail: float = Field(0.2, ge=0, le=1)
    """Fail where the correlation with the template, inside both masks, is below this."""
    ncc_z_warn: float = Field(-4.0, ge=-1000, lt=0)
    """Warn where that correlation lies more robust standard deviations than this below the cohort's median."""
    volume_warn_ml: tuple[Millilitres, Millilitres] = (950, 2050)
    """Warn where the volume of the intracranial mask is outside these two."""
    volume_fail_ml: tuple[Millilitres, Millilitres] = (700, 2500)
    """Fail where it is outside these two."""
    outline_dice_warn: float = Field(0.85, ge=0, le=1)
    """Warn where the two outlines of the brain, the network's and that of ANTs, have a Dice below this."""
    mask_fit_warn: float = Field(0.93, ge=0, le=1)
    """Warn where the Dice of mask and template's mask, after the linear registration, is below this."""
    mask_fit_fail: float = Field(0.9, ge=0, le=1)
    """Fail below this."""
    border_warn_cm2: Annotated[float, unit("cm²")] = Field(8.0, ge=0, le=10_000)
    """Warn where more of the mask than this lies on the faces of the field of view: the brain is cut off."""
    border_fail_cm2: Annotated[float, unit("cm²")] = Field(120.0, ge=0, le=10_000)
    """Fail above this area."""
    fov_cut_warn_percent: Percent = 2.0
    """Warn where more of the template's brain than this lies beyond the field of view, by the linear registration."""
    fov_cut_fail_percent: Percent = 15.0
    """Fail above this share."""
    given_outside_warn_percent: Percent = 5.0
    """Warn where more of a brain that was stripped before than this lies outside the mask."""
    given_outside_fail_percent: Percent = 15.0
    """Fail above this share."""
    brain_missing_warn_percent: Percent = 3.0
    """Warn where more of the template's brain than this lies outside a brain that was stripped before."""
    brain_missing_fail_percent: Percent = 6.0
    """Fail above this share: a part of it is cut away."""
    asymmetry_warn_percent: Percent = 2.5
    """Warn where the halves of a brain that was stripped before differ by more than this, over their sum."""
    asymmetry_fail_percent: Percent = 5.0
    """Fail above this difference: a side of it is cut away."""
    holes_warn_ml: Millilitres = 5.0
    """Warn where more of the mask than this has no signal: missing slices, or a brain that was cut out."""
    holes_fail_ml: Millilitres = 200.0
    """Fail above this volume."""
    slice_jump_warn: float = Field(1.8, ge=1, le=1000)
    """Warn where two neighbouring slices differ by more than this times the difference of those around them."""
    ghost_warn: float = Field(0.04, ge=0, le=100)
    """Warn where the air holds a copy of the head of more than this share of its brightness."""
    cnr_warn: float = Field(1.8, ge=0, le=1000)
    """Warn where the contrast of grey and white matter, over the noise, is below this."""
    cnr_fail: float = Field(0.8, ge=0, le=1000)
    """Fail below this contrast-to-noise ratio."""
    contrast_warn: float = Field(1.1, ge=0, le=1000)
    """Warn where the intensity of white over grey matter is below this: probably not a T1w."""
    contrast_fail: float = Field(1.0, ge=0, le=1000)
    """Fail below this ratio."""
    volume_z_warn: float = Field(4.0, gt=0, le=1000)
    """Warn where the mask's volume lies further from the cohort's median than this many robust standard deviations."""
    alignment_similarity_fail: float = Field(0.45, ge=0, le=1)
    """Fail where the correlation with the template, after the deformable alignment, is below this."""
    alignment_similarity_z_warn: float = Field(-4.0, ge=-1000, lt=0)
    """Warn where that correlation lies more robust standard deviations than this below the cohort's median."""
    alignment_folding_warn_percent: Percent = 1.0
    """Warn where the deformable alignment folds in more of the template's brain than this."""
    alignment_folding_fail_percent: Percent = 10.0
    """Fail above this share."""


class AutoencoderOptions(Options):
    """How a scan becomes a latent and back, and how that is trained."""

    kind: Literal["vqvae", "pca"] = "vqvae"
    """A 3D network with a codebook (VQ-VAE), or principal components, which need no training."""
    alignment: Literal["deformable", "none"] = "deformable"
    """With `deformable` a scan is encoded as its displacement to the template, the density of its tissues and its
    appearance at the template, so that an effect can move tissue instead of fading it; with `none` as it is."""
    channels: list[Annotated[int, Field(ge=4, le=4096)]] = Field([32, 64], min_length=1, max_length=8)
    """Channels of the network at each resolution. Each entry halves the grid: two give latents at a quarter of the
    resolution."""
    residual_blocks: int = Field(2, ge=0, le=100)
    """Residual blocks at each resolution."""
    latent_channels: int = Field(32, ge=1, le=4096)
    """Channels of the latent: numbers at each of its voxels."""
    quantizer: Literal["scalar", "residual"] = "scalar"
    """What the codes are: with `scalar` each latent channel is rounded to steps of `quantizer_step`; with `residual`
    several learnt codebooks each code what those before it leave, in fewer bits at a lower fidelity."""
    quantizer_step: float = Field(0.075, gt=0, le=100)
    """Step of `quantizer: scalar`, where white matter is 1: twice the step saves about one bit a latent number."""
    codebooks: int = Field(8, ge=1, le=100)
    """Codebooks of `quantizer: residual`."""
    codebook_size: int = Field(256, ge=2, le=32768)
    """Codes in each of them."""
    codebook_decay: Fraction = 0.99
    """How much of a codebook's moving averages is kept at each step."""
    commitment_weight: Weight = 0.25
    """Weight of the loss that pulls the encoder's output towards its codes."""
    quantized_share: float = Field(0.5, ge=0, le=1)
    """Share of the training volumes that is decoded from codes; the rest is decoded from the continuous latent, as
    counterfactuals are."""
    intensity_loss: Literal["charbonnier", "l1"] = "charbonnier"
    """The error of intensities: `l1` is the absolute error, `charbonnier` a smooth one in which small errors weigh
    less. The losses below are added to it."""
    ssim_weight: Weight = 0.1
    """Weight of 1 − SSIM (structural similarity)."""
    gradient_weight: Weight = 0.0
    """Weight of the error of differences between neighbouring voxels: less blur, a lower PSNR."""
    fourier_weight: Weight = 0.0
    """Weight of the error of Fourier magnitudes: less blur, a lower PSNR."""
    deformation_voxels: Annotated[float, unit("voxels")] = Field(0.0, ge=0, le=3)
    """Root mean square of random smooth warps of the training volumes, for small cohorts; 0 for none."""
    recompute: bool = False
    """Compute the residual blocks again in the backward pass instead of keeping their activations: slower, in less
    memory."""
    compile: bool = False
    """Compile encoder and decoder (`torch.compile`), which needs a C++ compiler and starts minutes later."""
    components: int = Field(32, ge=1, le=100_000)
    """Principal components of `kind: pca`, and of the PCA baseline that the evaluation fits."""
    batch_size: int = Field(1, ge=1, le=10_000)
    """Volumes a training step, of all processes together."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Highest learning rate; it rises to this at the start and falls until the end."""
    max_steps: Steps | None = None
    """Training steps; null: 30 passes over the training scans."""
    validation_interval: Steps | None = None
    """Steps between two looks at the validation scans; null: one pass over the training scans, at least 50 steps."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs; `auto` takes a GPU where there is one."""


Family = Literal["gaussian", "gamma", "poisson", "negbinomial", "binomial", "multinomial", "ordered"]


@dataclass(frozen=True)
class Numbers:
    """A node's values are numbers: which ones in words, above which number, and whether they are whole."""

    needed: str = "numbers"
    above: float = -math.inf
    whole: bool = False


@dataclass(frozen=True)
class Levels:
    """A node's values are two levels or more: how many in words, and at most."""

    needed: str = "levels"
    most: int | None = None


# What values a node of each family has; how it is fitted stands in `brainscm.scm.families`.
FAMILY_VALUES: dict[str, Numbers | Levels] = {
    "gaussian": Numbers(),
    "gamma": Numbers("values above 0", above=0),
    "poisson": Numbers("counts (0, 1, 2, ...)", above=-1, whole=True),
    "negbinomial": Numbers("counts (0, 1, 2, ...)", above=-1, whole=True),
    "binomial": Levels("two levels", most=2),
    "multinomial": Levels(),
    "ordered": Levels(),
}


class NodeOptions(Options):
    """A node takes its values from a column of `participants.tsv` or of the sessions tables, or from what preprocessing
    measured: `gm`, `wm`, `csf`, `ventricles`, `brain`, `medial_temporal_gm` and the regions of an atlas (ml), or
    `head_size`.
    """

    column: str | None = None
    """Column that holds the values. By default the node's own name or, for what preprocessing measured, that name with
    `_ml`."""
    levels: list[str] | None = Field(None, min_length=1)
    """Levels of a categorical node, the reference first. By default those found, in alphabetical order."""
    unit: str | None = None
    """Unit of a number, for the report."""
    formula: str | None = None
    """The node's parents, as a formula like `age + sex`. A node without one is exogenous."""
    family: Family | None = None
    """Distribution of a node with a formula: gamma for positive numbers (log link), poisson or negbinomial for counts
    (their variance equal to their mean, or above), binomial for two levels. By default gaussian for numbers, binomial
    or multinomial for levels."""

    @field_validator("levels", mode="before")
    @classmethod
    def _levels_are_text(cls, levels: Any) -> Any:
        if isinstance(levels, list):
            if any(isinstance(level, bool) for level in levels):
                raise ValueError('a level is true or false; YAML reads a bare yes, no, on or off so: write "yes", "no"')
            return [str(level) if isinstance(level, int) else level for level in levels]
        return levels


class ImageOptions(Options):
    """The image, the last node of the graph: its formula, how its slopes are estimated, and the errors of its tests."""

    formula: str
    """The image's parents, as a formula like `cr(age, df=4) + sex`. A study that names nodes of its own names this."""
    shrinkage: Literal["by_component", "ridge", "none"] = "by_component"
    """How the slopes that counterfactuals and maps are made of are shrunk. With `by_component` (empirical Bayes) each
    term of the formula has a variance of its own, place by place, and what does not stand out from noise is dropped;
    `ridge` shrinks by generalised cross-validation; `none` is plain least squares. Tests are always those of least
    squares."""
    rank: int | None = Field(None, ge=1, le=10_000)
    """Slopes of at most this rank over the latent (reduced-rank regression), beside `shrinkage: none`; null: any."""
    smoothing_voxels: Annotated[float, unit("latent voxels")] = Field(0.0, ge=0, le=100)
    """Standard deviation of a Gaussian that smooths the slopes' maps; 0 for none."""
    variance_by: str | None = None
    """A node with levels, such as `site`, whose groups differ in residual variance: scans are weighed by it."""
    repeated: Literal["cluster", "random_intercept"] = "cluster"
    """What several scans of a participant call for: cluster-robust errors, or a random intercept of the participant."""
    errors: Literal["ordinary", "hc3"] = "ordinary"
    """Errors of the tests where each participant has one scan. With `hc3` the residual variance may depend on the
    covariates."""

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> ImageOptions:
        if self.shrinkage != "none" and self.rank is not None:
            raise ValueError("rank and shrinkage shrink the same slopes; beside rank write shrinkage: none")
        if self.variance_by is not None and self.repeated == "random_intercept":
            raise ValueError("variance_by and repeated: random_intercept are two ways to weigh scans; choose one")
        return self


class ScmOptions(Options):
    """The structural causal model: the graph that you declare, what is tested, and missing covariates."""

    nodes: dict[Name, NodeOptions]
    """The nodes by name. A study that names any replaces the whole graph: the default nodes and, with them, the image's
    formula, the contrasts and the queries."""
    image: ImageOptions
    contrasts: dict[Name, dict[str, tuple[Scalar, Scalar]]] = {}
    """Effects that are tested over the whole latent and shown as maps, by name: `{ageing: {age: [50, 80]}}` compares
    two values of a node, or of several at once."""
    missing: Literal["drop", "impute"] = "drop"
    """Training scans that lack a covariate are dropped, or nodes with a formula are filled in from their parents, in
    training and in queries. An exogenous node has nothing to be filled in from: such a scan is dropped. Both are
    counted in `diagnostics.tsv`."""
    imputations: int = Field(1, ge=1, le=1000)
    """Beside `missing: impute`, how often training scans are filled in. Once, with what is expected, and errors do not
    count that it is a guess; or several times (20, say), with draws given all that is known of the scan, and estimates
    are pooled by Rubin's rules."""
    permutations: int = Field(500, ge=0, le=1_000_000)
    """Permutations of the family-wise (max-T) test of the contrasts; 0 for none. The smallest p is
    1/(permutations + 1)."""
    tfce: bool = False
    """Also enhance the contrasts' maps without a threshold (TFCE) and test that, beside clusters: the more sensitive
    where an effect is faint and wide, and slow."""

    @model_validator(mode="after")
    def _imputations_of_what(self) -> ScmOptions:
        if self.imputations > 1 and self.missing != "impute":
            raise ValueError(f"imputations: {self.imputations} needs missing: impute; write both, or neither")
        return self


Given = TypeVar("Given")


class RangeOptions(Options):
    """Evenly spaced are `{from: 50, to: 90, step: 5}` and, as changes, `{from: "-10", to: "+10", step: 5}`."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Scalar = Field(alias="from")
    """The first value, or the first change in quotes."""
    to: Scalar
    """The last one; it is left out where the steps do not meet it."""
    step: float = Field(gt=0, le=LARGEST)
    """From one value to the next."""

    @model_validator(mode="after")
    def _in_order(self) -> RangeOptions:
        ends = self.start, self.to
        if not all(math.isfinite(value) for end in ends if (value := _number(end)) is not None):
            raise ValueError("from and to should be finite numbers")
        if any(_number(end) is None for end in ends) or isinstance(self.start, str) != isinstance(self.to, str):
            raise ValueError('from and to should be two numbers, like 50 and 90, or two changes, like "-10" and "+10"')
        if float(self.to) < float(self.start):
            raise ValueError(f"from {self.start} is above to {self.to}; exchange them")
        return self


class AskedOptions(Options, Generic[Given]):
    name: Name
    """Used in file names (without `-` and `_`) and in the report."""
    do: dict[str, Given] = Field(min_length=1)
    """The intervention, `{node: value}`: a number, a level, or a change in quotes (`"+10"`, `"-5.5"`: without them YAML
    reads `+10` as ten). Several nodes at once make a joint intervention. Several values of a node, as a list or
    evenly spaced, make a trajectory: a member for each value, or for each combination of the values of several nodes.
    """
    scans: str | list[str] = "test"
    """The scans of a split (`train`, `validation`, `test`), `all`, a list of scan or participant ids, or a filter in
    words of the cohort's table: `"split == 'test' and diagnosis == 'AD' and age > 60"`."""
    effect: Literal["total", "direct"] = "total"
    """With `total` mediators respond to the intervention; with `direct` all other nodes are held."""
    decode: Literal["residual", "direct", "quantized"] = "residual"
    """With `residual` the scan plus the decoded change, so that what the autoencoder loses is kept; with `direct` the
    decoded latent; with `quantized` the decoded latent after quantisation."""
    uncertainty: Literal["moved", "decoded"] = "moved"
    """With `moved` a draw of the parameters moves the counterfactual on from where it is; with `decoded` each draw is
    decoded anew, which takes several times as long and tells the same."""
    native: Literal["none", "brain", "head"] = "none"
    """Also write the counterfactual, its difference and its uncertainty on the raw scan's own grid and in its units:
    the `brain` alone, or the `head` in which everything outside the brain is untouched."""
    jacobian: bool = False
    """Also write, in template space, by how much each place grows or shrinks (logarithm of the Jacobian determinant),
    as far as the displacement tells."""
    group: bool = False
    """Also map the mean difference over participants, and its standard error."""

    @field_validator("do", mode="before")
    @classmethod
    def _no_truth_values(cls, do: Any) -> Any:
        for node, value in do.items() if isinstance(do, dict) else ():
            if any(isinstance(each, bool) for each in (value if isinstance(value, list) else [value])):
                raise ValueError(
                    f'the value of {node} is true or false; YAML reads a bare yes, no, on or off so: write "yes", "no"'
                )
        return do

    @field_validator("do")
    @classmethod
    def _relative_needs_number(cls, do: dict[str, Any]) -> dict[str, Any]:
        for node, values in do.items():
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, str) and re.match(r"^[+-]", value) and not re.match(r"^[+-]\d+(\.\d+)?$", value):
                    raise ValueError(f'{{{node}: "{value}"}} is not a number; write a change as "+10" or "-5.5"')
        return do


class QuestionOptions(AskedOptions[Scalar | Annotated[list[Scalar], Field(min_length=1)] | RangeOptions]):
    """A question is put to each of its scans."""


class QueryOptions(AskedOptions[Scalar]):
    """A question with one value a node, as it is put to scans; `trajectory` names that which it is a member of."""

    trajectory: Name | None = None


def _number(value: Scalar) -> float | None:
    try:
        return float(value) if not isinstance(value, str) or re.match(r"^[+-]\d", value) else None
    except ValueError:
        return None


class VolumeOptions(Options):
    """How the volumes of counterfactuals are written."""

    float_type: Literal["float32", "float64"] = "float32"
    """Of their voxels. All is computed in `float32`; `float64` is for programs that read nothing else."""
    gzip_level: int = Field(1, ge=0, le=9)
    """How hard they are compressed: 0 not at all (the files still end in `.gz`), 9 most. Level 1 takes little time, and
    higher ones save little: most of a volume is empty."""


class WorkflowOptions(Options):
    """How the work is dealt into jobs. No result depends on it."""

    shard_minutes: Annotated[float, unit("minutes")] = Field(30, gt=0, le=100_000)
    """How long a job of encoding, synthesis, evaluation or scan pages may take. Where all scans of a stage would take
    longer in one job they are dealt into 2, 4, 8, … shards, each a job. Fewer minutes: more jobs side by side on a
    cluster."""


class Config(Options):
    """Where the scans are, where results go, and a section for each stage.

    A relative path starts at the folder in which snakemake is called; `~` is the home folder.
    """

    bids_dir: UserPath | None = None
    """Top of a BIDS folder. While this and `dicom_dir` are null, a cohort is simulated."""
    dicom_dir: UserPath | None = None
    """In its place a folder of DICOM files, `<participant>/[ses-<session>/]…`, which are converted to BIDS first."""
    derivatives: UserPath | None = None
    """Results of fMRIPrep, sMRIPrep or BrainSCM for the same scans: a folder with a brain mask of each on its own grid,
    and maybe a preprocessed T1w, which are taken in place of finding the brain again."""
    bundle: UserPath | None = None
    """A fitted study to put the scans to, the folder that `snakemake bundle` wrote. Nothing is then trained or fitted:
    `template`, `preprocess`, `autoencoder`, `scm` and `seed` are the bundle's."""
    new_levels: dict[str, str] = {}
    """With a bundle: nodes of which a level that the fitted study has not seen, such as another scanner, is estimated
    from controls among the new scans, and the filter that takes these: `{site: "diagnosis == 'CN'"}`. A level needs
    ten of them."""
    output_dir: UserPath = Path("results")
    """Everything that you want to keep."""
    work_dir: UserPath = Path("work")
    """Training state, and the simulated or converted cohort; may be deleted when a run is finished."""
    seed: int = Field(20260101, ge=0, le=2**32 - 1)
    """Start of every random number: the simulated cohort, the split, training, permutations."""
    simulation: SimulationOptions = SimulationOptions()
    cohort: CohortOptions = CohortOptions()
    template: str | CustomTemplate = "MNI152NLin2009aSym"
    """The space in which brains are compared: the ICBM152 2009a template that nilearn ships (`MNI152NLin2009aSym`), a
    TemplateFlow template by its name, found under `$TEMPLATEFLOW_HOME`, or one of your own."""
    preprocess: PreprocessOptions = PreprocessOptions()
    quality: QualityOptions = QualityOptions()
    autoencoder: AutoencoderOptions = AutoencoderOptions()
    archive_codes: bool = False
    """Also write the cohort as whole numbers, `latents/codes.zarr`: a small copy of the scans in template space."""
    scm: ScmOptions = ScmOptions(
        nodes={"age": NodeOptions(unit="years"), "sex": NodeOptions()}, image=ImageOptions(formula="age + sex")
    )
    counterfactuals: list[QuestionOptions] | UserPath = []
    """A list of questions, or the path of a table (TSV) with a row a scan and question."""
    volumes: VolumeOptions = VolumeOptions()
    workflow: WorkflowOptions = WorkflowOptions()

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if self.bids_dir and self.dicom_dir:
            raise ValueError("bids_dir and dicom_dir are both given; keep the one that holds the scans")
        return self

    @model_validator(mode="after")
    def _levels_are_new_to_a_bundle(self) -> Config:
        if self.new_levels and not self.bundle:
            raise ValueError(
                "new_levels is given, and no bundle: a study learns the levels of its own scans; take it out"
            )
        return self

    @model_validator(mode="after")
    def _codes_need_a_quantizer(self) -> Config:
        if self.archive_codes and self.autoencoder.kind != "vqvae":
            raise ValueError(
                f"archive_codes is true, but autoencoder.kind {self.autoencoder.kind} has no codes; use vqvae"
            )
        return self

    @model_validator(mode="after")
    def _an_anatomy_lies_in_one_part(self) -> Config:
        """What is tested was then never seen in training."""
        split, simulated = self.cohort.split, not (self.bids_dir or self.dicom_dir)
        if simulated and self.simulation.anatomies and not (split.column or split.group):
            grouped = split.model_copy(update={"group": "anatomy"})
            self.cohort = self.cohort.model_copy(update={"split": grouped})
        return self
