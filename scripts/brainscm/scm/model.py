"""The structural causal model as a whole: fit, save, load, intervene, shift the latent, say what supports it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brainscm.config import Scalar, ScmOptions
from brainscm.encoding.layout import Layout
from brainscm.errors import BrainSCMError, ConfigError, ScanError
from brainscm.files import read_arrays, whole
from brainscm.identity import Identity
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import CPU
from brainscm.questions import is_relative
from brainscm.regions import REGIONS
from brainscm.scm.components import Component, components_of
from brainscm.scm.covariates import Covariates
from brainscm.scm.design import Array, Design
from brainscm.scm.formula import nearest
from brainscm.scm.graph import Graph, read_graph
from brainscm.scm.image import DRAWS, ImageModel, fit_image
from brainscm.scm.imputation import Gaps, known_columns, scan_scores
from brainscm.scm.neighbours import Neighbours
from brainscm.scm.nodes import NODE_COLUMNS, NodeModel, fit_node, learn_design, load_node, pooled_node
from brainscm.scm.sample import Rows, Sample
from brainscm.scm.support import support
from brainscm.scm.weighting import Weighting, random_intercept, variance_by
from brainscm.tables import read_table, write_table

logger = logging.getLogger("brainscm")

IMAGE_FORMULA = "config: scm.image.formula"
NODE_MODELS = "node_models.npz"
IMPUTED = ":imputed"  # behind a node's name, its values in each imputation
CHANGED = ConfigError("config: scm: the graph has changed since it was fitted; run fit_scm again.")
MEASURED = "_ml"  # how the columns of volumes end that preprocessing measures
SILENT = "no effect of {} on the image stands out from noise in the training scans"
NOTHING_STANDS_OUT = (
    "no effect on the image stands out from noise in the training scans; "
    "add scans or take terms out of scm.image.formula (scm.image.shrinkage: none shows the noise, too)"
)


@dataclass(frozen=True)
class Scm:
    """A fitted model. Tables that it takes have `scan` and the columns of the nodes, one row a scan.

    Attributes:
        options: the declared graph. graph: the same, parsed.
        training: the training rows that the fit used: scan, participant, and the nodes' columns.
        covariates, design, nodes: learnt from `training` alone. nodes: the fitted node of each formula, parents first.
        image: the image node.
        neighbours: who is near, of the training participants.
        seed: of the workflow; decides what is random in the noise of discrete nodes.
        identity: of the latents that the image node was fitted on, where it was told.
        imputed: the nodes' values of `training` in each imputation; empty where missing ones are imputed once or never.
    """

    options: ScmOptions
    graph: Graph
    training: pd.DataFrame
    covariates: Covariates
    design: Design
    nodes: dict[str, NodeModel]
    image: ImageModel
    neighbours: Neighbours
    seed: int
    identity: Identity | None = None
    imputed: Sequence[pd.DataFrame] = ()

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        latents: Rows,
        options: ScmOptions,
        seed: int,
        layout: Layout | None = None,
        identity: Identity | None = None,
        device: torch.device = CPU,
    ) -> Scm:
        """Fit all nodes on the rows whose `split` is `train`.

        Args:
            table: row i describes `latents[i]`: scan, participant, split, and the nodes' columns; of `<region>_ml`,
                where there are such, missing covariates are told, too.
            latents: array-like (n, *latent), a zarr array for instance; read a row at a time, training rows only.
            options: the graph.
            seed: of the workflow.
            layout: of a latent; None if all its channels belong together and have no mirror image.
            identity: of the latents.
            device: where the image node is fitted.

        Raises:
            ConfigError: the graph does not fit the table, a design is collinear, or too few rows are left.
        """
        graph = read_graph(options)
        rows = np.flatnonzero((table["split"] == "train").to_numpy())
        training = table.iloc[rows].reset_index(drop=True)
        imputed = graph.modelled if options.missing == "impute" else ()
        problems = Covariates.learn(training, options).problems(training, imputed)
        if problems.any():
            logger.warning("%d of %d training scans are left out of the fit:", (problems != "").sum(), len(training))
            for reason, count in problems[problems != ""].value_counts().items():
                logger.warning("  %d: %s", count, reason)
        usable = (problems == "").to_numpy()
        if not usable.any():
            raise ConfigError(f"config: scm.nodes: no training scan can be used ({problems.iloc[0]}).")
        rows, training = rows[usable], training[usable].reset_index(drop=True)
        covariates, nodes, values, design = _fit_nodes(training, options, graph)
        participants = training["participant"].tolist()
        clusters = _clusters(options, participants)
        sample = Sample(design.matrix(values), design.columns, latents, rows.tolist(), participants, clusters)
        imputations: list[pd.DataFrame] = []
        if options.imputations > 1 and covariates.read(training).isna().any(axis=None):
            gaps = _gaps(training, covariates, graph, nodes, values, design, sample, device)
            imputations = gaps.impute(options.imputations, seed)
            refitted = [gaps.refitted(each) for each in imputations]
            nodes = {name: pooled_node([each[name] for each in refitted]) for name in nodes}
            values = _filled(covariates.read(training), nodes)
            design = Design.learn(graph.image, values, IMAGE_FORMULA)
            sample = replace(sample, x=design.matrix(values), imputed=[design.matrix(each) for each in imputations])
        sample = replace(sample, components=components_of(design, values, _measured(graph, covariates)))
        weighting = _weigh(options, values, sample, device)
        image = fit_image(weighting.apply(sample), options.image, layout, seed=seed, device=device)
        if options.missing == "impute":
            for name in graph.modelled:
                if count := int(training[covariates.columns[name]].isna().sum()):
                    how = f"{options.imputations} times" if imputations else "from its parents"
                    logger.warning("%d training scans lack %s, which is imputed %s", count, name, how)
        for name, share in zip(image.apart, image.apart_share, strict=True):
            logger.warning("image: %s", no_cause(name, share))
        if len(design.columns) > 1 and image.is_flat:
            logger.warning("image: %s", NOTHING_STANDS_OUT)
        image = replace(
            image,
            max_leverage=float(image.leverage(sample.x).max()),
            mean_row=sample.x.mean(axis=0),
            row_scale=weighting.scale,
            row_demean=weighting.demean,
        )
        columns = ["scan", "participant", *dict.fromkeys(covariates.columns.values())]
        near = Neighbours.of(values, training["participant"])
        return cls(
            options, graph, training[columns], covariates, design, nodes, image, near, seed, identity, imputations
        )

    def save(self, folder: Path) -> None:
        """Write `covariates.tsv`, `nodes.tsv`, `node_models.npz` and `image_model.npz`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_table(self.training, folder / "covariates.tsv")
        tables = [node.table(self.training_values) for node in self.nodes.values()]
        write_table(pd.concat(tables) if tables else pd.DataFrame(columns=NODE_COLUMNS), folder / "nodes.tsv")
        write_node_models(self, folder)
        self.image.save(folder / "image_model.npz")

    def answerable(self, encoded: EncodedScans) -> EncodedScans:
        """Leave out the scans of which the model cannot be asked anything (see `problems`).

        Raises:
            BrainSCMError: it was fitted on latents of another encoder.
        """
        if self.identity is not None:
            self.identity.check(encoded.store.identity, "the causal model", "the latents", "run fit_scm again")
        return encoded.leave_out(self.problems(encoded.scans.rows))

    def values(self, table: pd.DataFrame) -> pd.DataFrame:
        """The nodes' values of a table, one typed column a node, whatever its columns are called.

        With `missing: impute`, a node that a scan lacks gets what its parents lead one to expect.
        """
        values = self.covariates.read(table)
        return _filled(values, self.nodes) if self.options.missing == "impute" else values

    def problems(self, table: pd.DataFrame) -> pd.Series:
        """Why each row cannot be used ("" where it can): a missing covariate, an unseen level, outside a formula."""
        problems = self.covariates.problems(table, self.nodes if self.options.missing == "impute" else ())
        complete = (problems == "").to_numpy()
        values = self.values(table[complete])
        for design in (self.design, *(node.design for node in self.nodes.values())):
            undefined = np.flatnonzero(complete)[~design.is_defined(values)]
            problems.iloc[undefined] = f"'{design.formula.text}' has no value for it"
        return problems

    def design_matrix(self, table: pd.DataFrame) -> Array:
        """The image node's design matrix, (n, p)."""
        return self.design.matrix(self.values(table))

    def intervene(
        self, table: pd.DataFrame, do: Mapping[str, Scalar], effect: Literal["total", "direct"] = "total"
    ) -> pd.DataFrame:
        """Abduct each scan's noise, set the nodes in `do`, and predict what follows from them.

        Args:
            table: factual rows.
            do: node → new value, or a change such as "+10" of the scan's own value, whatever else is set.
            effect: `total` lets the intervention run through the nodes that it causes; `direct` holds them.

        Returns:
            The table with new values in the nodes' columns. A scan that the intervention does not change keeps its row
            exactly.

        Raises:
            ConfigError: an unknown node or level.
            ScanError: a row that cannot be used (see `problems`).
        """
        problems = self.problems(table)
        if problems.any():
            row = problems.ne("").to_numpy().argmax()
            raise ScanError(f"{table['scan'].iloc[row]}: {problems.iloc[row]}; mend the table or leave it out.")
        factual = self.values(table)
        changed = factual.copy()
        for node, value in do.items():
            if node not in self.covariates.columns:
                raise ConfigError(f"config: do: '{node}' is not a node; {nearest(node, list(self.covariates.columns))}")
            typed = self.covariates.typed(node, value)
            if self.covariates.levels[node] is not None:
                changed[node] = pd.Categorical([typed] * len(table), categories=factual[node].cat.categories)
            elif is_relative(typed):
                changed[node] = factual[node] + float(typed)
            else:
                changed[node] = float(typed)
        if effect == "total":
            for node in self.graph.descendants(tuple(do)):
                changed[node] = self.nodes[node].counterfactual(factual, changed, table["scan"], self.seed)
        result = table.copy()
        for node, column in self.covariates.columns.items():
            moved = (changed[node] != factual[node]).to_numpy() | table[column].isna().to_numpy()
            if moved.any():
                new = changed[node].astype(object) if self.covariates.levels[node] is not None else changed[node]
                if pd.api.types.is_numeric_dtype(table[column]):
                    new = pd.to_numeric(new)
                result[column] = result[column].where(~moved, new)
        return result

    def relearn(self, training: pd.DataFrame) -> Scm:
        """The measured nodes and the image's design learnt anew from other rows than `training`; not the image node,
        whose coefficients then belong to another design.

        Raises:
            ConfigError: a node or the design cannot be learnt from them.
        """
        covariates, nodes, _, design = _fit_nodes(training, self.options, self.graph)
        return replace(self, training=training, covariates=covariates, nodes=nodes, design=design, imputed=())

    def draw(self, k: int) -> Scm:
        """The model with the k-th draw of all its parameters, those of the nodes and of the image."""
        return replace(self.draw_nodes(k), image=self.image.draw(k))

    def draw_nodes(self, k: int) -> Scm:
        """The model with the k-th draw of the nodes' parameters, k without limit, and the image as it is."""
        nodes = {}
        for index, (name, node) in enumerate(self.nodes.items()):
            normals = np.random.default_rng([self.seed, 1, k, index]).standard_normal(len(node.parameters))
            nodes[name] = node.draw(normals)
        return replace(self, nodes=nodes)

    def sample(self, latents: Rows, rows: Sequence[int]) -> Sample:
        """What the image node was fitted on: the design and latents of the training scans, weighed as in the fit.

        Args:
            latents, rows: the store, and where the scans of `training` stand in it.
        """
        participants = self.training["participant"].tolist()
        clusters = _clusters(self.options, participants)
        x = self.design_matrix(self.training)
        sample = Sample(x, self.design.columns, latents, rows, participants, clusters, self.imputed_designs)
        return Weighting.of(sample, self.image.row_scale, self.image.row_demean).apply(sample)

    def weighted(self, x: Array) -> Array:
        """Rows of another design of the training scans, (n, p), weighed as in the fit."""
        codes = np.unique(self.training["participant"].to_numpy(dtype=str), return_inverse=True)[1]
        return Weighting(self.image.row_scale, self.image.row_demean, codes).rows(x)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Of the image's design, for who fits it anew with shrinkage."""
        return components_of(self.design, self.training_values, _measured(self.graph, self.covariates))

    @cached_property
    def imputed_designs(self) -> list[Array]:
        """The image node's design matrix of the training scans in each imputation."""
        return [self.design.matrix(values) for values in self.imputed]

    def moves_image(self, nodes: Collection[str]) -> bool:
        """Whether a change of the nodes' values changes the image, as far as effects stand out from noise."""
        of_nodes = [not set(nodes).isdisjoint(each) for each in self.design.nodes]
        return bool((self.image.moving & np.array(of_nodes)).any())

    @property
    def draws(self) -> int:
        return DRAWS

    @cached_property
    def complete(self) -> pd.DataFrame:
        """The training rows that lack no covariate; unless imputed several times, the nodes were fitted to these."""
        return self.training[self.training[list(self.covariates.columns.values())].notna().all(axis=1)]

    @cached_property
    def training_values(self) -> pd.DataFrame:
        return self.values(self.training)

    def support(self, table: pd.DataFrame, nodes: tuple[str, ...] = ()) -> pd.DataFrame:
        """How near the training scans each (counterfactual) row stands: see `brainscm.scm.support.support`."""
        values = self.values(table)
        return support(
            values=values,
            leverage=self.image.leverage(self.design.matrix(values)),
            max_leverage=self.image.max_leverage,
            neighbours=self.neighbours,
            near=tuple(dict.fromkeys((*self.graph.exogenous, *nodes))),
            image_parents=self.graph.image.names,
            covariates=self.covariates,
        )


def no_cause(name: str, share: float) -> str:
    """What it means that a measured mediator stands apart, in so large a share of the imputations."""
    apart = f"what goes with {name} in the image does not go with its causes, as if it were badly measured"
    if share < 1:
        return f"in {100 * share:.0f} % of the imputations {apart}; changing it moves the others' share alone"
    return f"{apart}; changing it moves nothing, and its causes move the image by other ways alone"


def _fit_nodes(
    training: pd.DataFrame, options: ScmOptions, graph: Graph
) -> tuple[Covariates, dict[str, NodeModel], pd.DataFrame, Design]:
    """What is learnt from usable training rows before the image: covariates, nodes, the nodes' values, the design."""
    covariates, complete = _learn(training, options)
    nodes = {
        name: fit_node(name, complete, training["participant"][complete.index], graph, covariates, options)
        for name in graph.modelled
    }
    values = _filled(covariates.read(training), nodes)
    return covariates, nodes, values, Design.learn(graph.image, values, IMAGE_FORMULA)


def _learn(training: pd.DataFrame, options: ScmOptions) -> tuple[Covariates, pd.DataFrame]:
    """Kinds, levels and ranges of the training scans that lack nothing, and those scans' node values."""
    complete = training
    if options.missing == "impute":
        complete = training[Covariates.learn(training, options).problems(training) == ""]
        if complete.empty:
            raise ConfigError("config: scm.missing: no training scan has all covariates to impute from; write drop.")
    covariates = Covariates.learn(complete, options)
    return covariates, covariates.read(complete)


def _filled(values: pd.DataFrame, nodes: Mapping[str, NodeModel]) -> pd.DataFrame:
    """Node values with what is missing imputed from the parents, parents first."""
    values = values.copy()
    for name, node in nodes.items():
        missing = values[name].isna()
        if missing.any():
            values.loc[missing, name] = node.expected(values[missing])
    return values


def _gaps(
    training: pd.DataFrame,
    covariates: Covariates,
    graph: Graph,
    nodes: Mapping[str, NodeModel],
    values: pd.DataFrame,
    design: Design,
    sample: Sample,
    device: torch.device,
) -> Gaps:
    """What the training scans lack, and what else is known of these scans."""
    missing = covariates.read(training).isna()
    known = known_columns(design, sample.x, [str(node) for node in missing if missing[node].any()])
    columns = [f"{region.name}_ml" for region in REGIONS]
    columns = [each for each in columns if each in training and each not in covariates.columns.values()]
    volumes = training[columns].astype(float)
    finite = volumes.fillna(volumes.mean()).dropna(axis=1).to_numpy(dtype=np.float64)
    scores = scan_scores(sample, known, finite, int((~missing.any(axis=1)).sum()), device)
    return Gaps(values, missing, training["participant"], graph, nodes, design, scores)


def _measured(graph: Graph, covariates: Covariates) -> frozenset[str]:
    """Nodes with causes that are volumes measured from the image."""
    return frozenset(node for node in graph.modelled if covariates.columns[node].endswith(MEASURED))


def _clusters(options: ScmOptions, participants: list[str]) -> list[str]:
    """Whose scans share an error: a participant's, or none where a random intercept has taken up what they share."""
    apart = options.image.repeated == "random_intercept"
    return [str(i) for i in range(len(participants))] if apart else participants


def _weigh(options: ScmOptions, values: pd.DataFrame, sample: Sample, device: torch.device) -> Weighting:
    if options.image.repeated == "random_intercept" and sample.is_repeated:
        return random_intercept(sample, device)
    if options.image.variance_by is not None:
        return variance_by(sample, values[options.image.variance_by].astype(str).tolist(), device)
    return Weighting.equal(sample)


def write_node_models(scm: Scm, folder: Path) -> None:
    """Write `node_models.npz`: the numbers of all nodes, the seed, and what latents the image node is of."""
    identity = "" if scm.identity is None else scm.identity.model_dump_json()
    arrays: dict[str, NDArray] = {"seed": np.array(scm.seed), "identity": np.array(identity)}
    for name, node in scm.nodes.items():
        arrays |= {f"{name}/{key}": value for key, value in node.arrays().items()}
        if scm.imputed:
            each = [values[name].to_numpy() for values in scm.imputed]
            arrays[f"{name}{IMPUTED}"] = np.array(each, dtype=float if node.levels is None else str)
    with whole(folder / NODE_MODELS) as partial:
        np.savez(partial, **arrays)  # type: ignore[arg-type]


def read_node_models(folder: Path) -> dict[str, NDArray]:
    """The arrays of `node_models.npz`.

    Raises:
        BrainSCMError: it is of another version.
    """
    arrays = read_arrays(folder / NODE_MODELS)
    nodes = {name for name, slash, _ in (key.partition("/") for key in arrays) if slash}
    if "identity" not in arrays or any(f"{name}/missing_information" not in arrays for name in nodes):
        raise BrainSCMError(f"{folder}: was written by another version of BrainSCM; run fit_scm again.")
    return arrays


def load_scm(folder: Path, options: ScmOptions) -> Scm:
    """Load a saved model: formula state is learnt again from `covariates.tsv`, numbers come from the archives.

    Raises:
        ConfigError: the graph in the config is not the one that was fitted.
        BrainSCMError: the files are of another version, or damaged.
    """
    graph = read_graph(options)
    training = read_table(folder / "covariates.tsv")
    covariates, complete = _learn(training, options)
    arrays = read_node_models(folder)
    nodes = {}
    for name in graph.modelled:
        own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
        design = learn_design(name, complete, graph)
        node = load_node(name, own, design, covariates, options) if own else None
        if node is None:
            raise CHANGED
        nodes[name] = node
    values = _filled(covariates.read(training), nodes)
    design = Design.learn(graph.image, values, IMAGE_FORMULA)
    image = ImageModel.load(folder / "image_model.npz")
    if tuple(image.columns) != design.columns:
        raise CHANGED
    identity = Identity.model_validate_json(str(arrays["identity"])) if arrays["identity"] else None
    near = Neighbours.of(values, training["participant"])
    given = {name: arrays[f"{name}{IMPUTED}"] for name in nodes if f"{name}{IMPUTED}" in arrays}
    imputed = []
    for k in range(len(next(iter(given.values()), ()))):
        columns = {
            name: each[k] if covariates.levels[name] is None else pd.Categorical(each[k], covariates.levels[name])
            for name, each in given.items()
        }
        imputed.append(values.assign(**columns))
    seed = int(arrays["seed"])
    return Scm(options, graph, training, covariates, design, nodes, image, near, seed, identity, imputed)
