"""The image node: one linear model for the whole latent, fitted in closed form from a stream of scans.

The latent z of a scan with design row x is z = x·B + u. One pass over the store, in float64, never more than a block
of scans in memory, gives Q'Z, from which B follows by QR, the residuals' squares, and the mixtures of residuals that
make the draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from brainscm.config import ImageOptions
from brainscm.encoding.layout import Layout
from brainscm.files import read_arrays, whole
from brainscm.parallel import CPU
from brainscm.scm.components import Component
from brainscm.scm.design import Array
from brainscm.scm.robust import CR2, HC3, Sandwich
from brainscm.scm.sample import Sample, to_device
from brainscm.scm.shrinkage import by_component, low_rank, ridge, smooth

DRAWS = 8
PROBES = 64  # about so many random mixtures of the residuals, by which their covariance is estimated
LEAST_SQUARES = "least squares"
ROUNDING = 1e-12  # a smaller share of a latent's squares, or of its size, is no residual


@dataclass(frozen=True)
class ImageModel:
    """The fitted image node; p design columns, a latent of any shape.

    Attributes:
        columns: (p,) names of the design's columns.
        coefficients: B, (p, *latent) float64.
        residual_variance: RSS / (n - p), (*latent) float64.
        r: (p, p) upper triangular, of the design's X = QR.
        degrees_of_freedom: n - p.
        max_leverage: the largest leverage x(X'X)⁻¹x' of a training scan.
        mean_row: (p,) mean of the training scans' design rows.
        draws: (K, p, *latent) float32, steps from B to draws of what least squares leaves possible: draws from its
            sampling distribution, and from a refined B also what the refinement took away.
        estimator: how B was estimated: `least squares`, `shrinkage by component`, `ridge`, `low rank`, each perhaps
            `, smoothed`. All but the first are biased; residual variance, leverage and `r` stay those of least squares.
        penalty: of ridge, on columns of unit variance.
        sides: `match` or `differ`: whether shrinkage kept a difference between the effects on left and right;
            "" where they were not compared.
        apart: (m,) names of measured mediators that shrinkage takes for no cause of what goes with them.
        apart_share: (m,) of the imputations of missing covariates, the share that takes each so; 1 where there is one.
        row_scale, row_demean: (n,) how the training scans were weighed (`brainscm.scm.weighting`); empty: equally.
    """

    columns: NDArray[np.str_]
    coefficients: Array
    residual_variance: Array
    r: Array
    degrees_of_freedom: int
    max_leverage: float
    mean_row: Array
    draws: NDArray[np.float32]
    estimator: str = LEAST_SQUARES
    penalty: float = 0.0
    sides: str = ""
    apart: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    apart_share: Array = field(default_factory=lambda: np.empty(0))
    row_scale: Array = field(default_factory=lambda: np.empty(0))
    row_demean: Array = field(default_factory=lambda: np.empty(0))

    @cached_property
    def mean(self) -> Array:
        """The mean latent of the training scans, (*latent)."""
        return self.predict(self.mean_row[None])[0]

    @property
    def xtx_inverse(self) -> Array:
        """(X'X)⁻¹, (p, p)."""
        return self._r_inverse @ self._r_inverse.T

    @property
    def _r_inverse(self) -> Array:
        return np.asarray(scipy.linalg.solve_triangular(self.r, np.eye(len(self.r))))

    @cached_property
    def moving(self) -> NDArray[np.bool_]:
        """Which columns of the design, (p,), have an effect; of what shrinkage took out, rounding errors are left."""
        size = np.abs(self.coefficients).reshape(len(self.r), -1).max(axis=1) * np.linalg.norm(self.r, axis=0)
        return np.asarray(size > 1e-9 * size.max())

    @property
    def is_flat(self) -> bool:
        """Whether shrinkage has left no effect at all."""
        return not self.coefficients[1:].any()

    def predict(self, x: Array) -> Array:
        """x·B, (n, *latent); a row is the same to the last bit alone and among others."""
        return _rowwise(x, self.coefficients)

    def deviate(self, x: Array, k: int) -> Array:
        """What the k-th draw of the coefficients adds to `predict`, (n, *latent)."""
        return _rowwise(x, self.draws[k])

    def leverage(self, x: Array) -> Array:
        """x(X'X)⁻¹x' of each design row: how far it stands from the training scans."""
        return np.square(np.einsum("ni,ij->nj", x, self._r_inverse)).sum(axis=1)

    def draw(self, k: int) -> ImageModel:
        """The model with the k-th draw of its coefficients."""
        return replace(self, coefficients=self.coefficients + self.draws[k])

    def save(self, path: Path) -> None:
        """Write an npz archive."""
        with whole(path) as partial:
            np.savez(partial, **{attribute.name: getattr(self, attribute.name) for attribute in fields(self)})

    @classmethod
    def load(cls, path: Path) -> ImageModel:
        arrays = read_arrays(path)
        plain = {name: arrays[name].item() for name in arrays if arrays[name].ndim == 0}
        return cls(**{**arrays, **plain})


def _rowwise(x: Array, coefficients: NDArray[np.floating]) -> Array:
    flat = coefficients.reshape(len(coefficients), -1)
    return np.array([row @ flat for row in x], dtype=np.float64).reshape(len(x), *coefficients.shape[1:])


def fit_image(
    sample: Sample,
    options: ImageOptions | None = None,
    layout: Layout | None = None,
    *,
    seed: int,
    device: torch.device = CPU,
    drawn: bool = True,
) -> ImageModel:
    """Fit z = x·B + u by least squares, or as `options` refine it.

    Args:
        sample: the training scans. Where some share an error, the draws come from the cluster-robust sampling
            distribution, else from the ordinary one (or HC3's).
        options: `shrinkage`, `rank`, `smoothing_voxels` and `errors` are looked at; None for plain least squares.
        layout: of a latent, for shrinkage by component; None if all channels belong together and have no mirror image.
        seed: of the draws.
        device: where the products are made.
        drawn: False for a model without draws, which needs no more than tests and predictions.

    Returns:
        The model; where missing covariates were imputed several times, the mean of the imputations' models, whose draws
        hold how these differ. So a mediator that stands apart in some of them keeps a part of its effect.
    """
    if not sample.imputed:
        return _fit_complete(sample, options, layout, seed, device, drawn)[0]
    completed, factors = sample.completed, _Factors.of(sample.x)
    m = len(completed)
    wider = np.sqrt((m + 1) / (m - 1))  # so that what differs between imputations counts (1 + 1/m) times
    pooled: ImageModel | None = None
    plain: Array | float = 0.0
    apart: Counter[str] = Counter()
    for k, each in enumerate(completed):
        model, least_squares = _fit_complete(each, options, layout, seed, device, drawn)
        own = np.arange(len(model.draws)) % m == k
        model.draws[own] += (model.coefficients + (wider - 1) * least_squares).astype(np.float32)
        plain = plain + least_squares / m
        apart.update(model.apart.tolist())
        if pooled is None:
            pooled = replace(model, coefficients=model.coefficients / m, residual_variance=model.residual_variance / m)
        else:
            pooled.draws[own] = model.draws[own]
            pooled.coefficients[:] += model.coefficients / m
            pooled.residual_variance[:] += model.residual_variance / m
            sides = "differ" if "differ" in (pooled.sides, model.sides) else pooled.sides
            pooled = replace(pooled, sides=sides)
    assert pooled is not None
    pooled.draws[:] += ((1 - wider) * plain - pooled.coefficients).astype(np.float32)
    return replace(
        pooled,
        r=factors.r,
        max_leverage=float(factors.leverage.max()),
        mean_row=sample.x.mean(axis=0),
        apart=np.array(list(apart), dtype=np.str_),
        apart_share=np.array([count / m for count in apart.values()]),
    )


def _fit_complete(
    sample: Sample,
    options: ImageOptions | None,
    layout: Layout | None,
    seed: int,
    device: torch.device,
    drawn: bool,
) -> tuple[ImageModel, Array]:
    """The model of one design, and its least-squares coefficients."""
    x, (n, p) = sample.x, sample.x.shape
    factors = _Factors.of(x)
    rng = np.random.default_rng([seed, 0])
    # Random numbers go by a scan's covariates and not by its row, so that the order of the rows does not matter.
    place = np.argsort(np.lexsort((*x.T, np.asarray(sample.clusters))))
    draws = DRAWS if drawn else 0
    probed = options is not None and options.shrinkage == "by_component" and p > 1
    mix = _draws(sample, factors, draws, options is not None and options.errors == "hc3", rng, place)
    if probed:
        mix = np.vstack([mix, _probes(factors.q, rng, place)])
    found = _sum_over_scans(sample, factors, mix, device)
    shape = sample.first().shape
    model = ImageModel(
        columns=np.array(sample.columns),
        coefficients=found.b.reshape(p, *shape),
        residual_variance=(found.rss / (n - p)).reshape(shape),
        r=factors.r,
        degrees_of_freedom=n - p,
        max_leverage=float(factors.leverage.max()),
        mean_row=x.mean(axis=0),
        draws=found.mixed[: draws * p].reshape(draws, p, *shape),
    )
    if options is None:
        return model, model.coefficients
    refined = model
    if probed:
        components = (
            sample.components or [Component(name, np.eye(p)[:, [j]]) for j, name in enumerate(sample.columns)][1:]
        )
        probes = found.mixed[draws * p :]
        refined = _shrink(model, factors.r, found.qtz, probes, layout or Layout(shape[:1]), components)
    refined = _refine(refined, options, x, factors.q, factors.r, found.qtz, float(found.rss.sum()))
    if refined.estimator != LEAST_SQUARES:
        # What was taken away is not known to be zero: a draw lies about least squares, whatever is shown.
        refined.draws[:] += (model.coefficients - refined.coefficients).astype(np.float32)
    return refined, model.coefficients


@dataclass(frozen=True)
class _Factors:
    """X = QR: q (n, p) with orthonormal columns, r (p, p) upper triangular, and R⁻¹."""

    q: Array
    r: Array
    r_inverse: Array

    @classmethod
    def of(cls, x: Array) -> _Factors:
        # By torch: numpy's own threads wait for more work on the very cores that the products with latents need.
        q, r = torch.linalg.qr(torch.tensor(x))
        r_inverse = torch.linalg.solve_triangular(r, torch.eye(len(r), dtype=r.dtype), upper=True)
        return cls(q.numpy(), r.numpy(), r_inverse.numpy())

    @property
    def leverage(self) -> Array:
        """(n,)"""
        return np.square(self.q).sum(axis=1)


def _draws(
    sample: Sample, factors: _Factors, draws: int, hc3: bool, rng: np.random.Generator, place: NDArray[np.intp]
) -> Array:
    """Mixtures of the residuals that are draws of B's error, (draws·p, n)."""
    (n, p), q, r_inverse = factors.q.shape, factors.q, factors.r_inverse
    sandwich = robust_sandwich(sample, q, hc3)
    if sandwich is None:
        # Independent maps with the residuals' own covariance, mixed by a root of (X'X)⁻¹.
        mix = rng.standard_normal((draws, n, p))[:, place] @ (r_inverse.T / np.sqrt(n - p))
    else:
        # A normal weight per cluster on its score: the wild cluster bootstrap, whose covariance is the sandwich.
        weights = rng.standard_normal((draws, sandwich.codes.max() + 1))[:, sandwich.codes]
        mix = np.einsum("kn,np->knp", weights, sandwich.weights(q) @ r_inverse.T)
        # What a cluster decides alone leaves it no residual: there the error is that of the other scans.
        fitted = sandwich.fitted.T @ q @ (r_inverse.T / np.sqrt(n - p))
        mix += rng.standard_normal((draws, n, len(fitted)))[:, place] @ fitted
    return np.moveaxis(mix, 1, 2).reshape(draws * p, n)


def robust_sandwich(sample: Sample, q: Array, hc3: bool) -> Sandwich | None:
    """CR2 by participant where scans share an error, else HC3 if wanted; None for ordinary errors. q: of X = QR."""
    if sample.is_clustered:
        return Sandwich.of(q, sample.clusters, CR2)
    return Sandwich(q, np.arange(len(q)), HC3) if hc3 else None


def _probes(q: Array, rng: np.random.Generator, place: NDArray[np.intp]) -> Array:
    """Mixtures of the residuals that are what the columns of Q₁'Z would be without effects, (k·(p - 1), n)."""
    n, p = q.shape
    frame = _frame(q[:, 1:], rng.standard_normal((n, p - 1))[place])
    probes = frame @ rng.standard_normal((max(1, PROBES // (p - 1)), p - 1, n), dtype=np.float32)[..., place]
    return probes.reshape(-1, n) / np.sqrt(n - p)


def _frame(q: Array, fixed: Array) -> Array:
    """Orthonormal axes in the coordinates of an orthonormal basis q (n, k) of a space: the same axes in every basis.

    Args:
        fixed: (n, k) vectors that do not depend on the basis; the axes are their projections, one after the other.
    """
    axes, r = np.linalg.qr(q.T @ fixed)
    return np.asarray(axes * np.sign(np.diagonal(r)))


@dataclass(frozen=True)
class _Sums:
    """Of L latents over the scans: Q'Z and B (p, L), RSS (L,), and mixtures of the residuals (m, L) float32."""

    qtz: Array
    b: Array
    rss: Array
    mixed: NDArray[np.float32]


def _sum_over_scans(sample: Sample, factors: _Factors, mix: Array, device: torch.device) -> _Sums:
    """Read the sample's latents once. `mix` (m, n) is of the residuals."""
    (n, p), q = factors.q.shape, factors.q
    on_cpu = torch.from_numpy(q)
    mix = mix - (torch.tensor(mix) @ on_cpu @ on_cpu.T).numpy()  # of the latents, the same mixtures of the residuals
    # All is taken of z - h·z₀, where h is the design's own image of the constant: residuals stay what they are, and a
    # mean far from zero costs no digits.
    constant = q @ q.sum(axis=0)
    z0 = to_device(sample.first().reshape(-1), device).double()
    q_on, constant_on, mix_on = (to_device(each, device) for each in (q, constant, mix.astype(np.float32)))
    qtz = z0.new_zeros((p, len(z0)))
    squares = z0.new_zeros(len(z0))
    mixed = mix_on.new_zeros((len(mix), len(z0)))
    for block, tile, z in sample.blocks(device):
        z.addr_(constant_on[block], z0[tile], alpha=-1)
        qtz[:, tile].addmm_(q_on[block].T, z)
        if len(mix):
            mixed[:, tile].addmm_(mix_on[:, block], z.float())
        squares[tile] += z.square_().sum(dim=0)
    rss = squares - qtz.square().sum(dim=0)
    rss = torch.where(rss > ROUNDING * squares + n * (ROUNDING * z0).square(), rss, 0)
    qtz += to_device(q.sum(axis=0), device)[:, None] * z0
    b = torch.linalg.solve_triangular(to_device(factors.r, device), qtz, upper=True).contiguous()
    return _Sums(*(each.cpu().numpy() for each in (qtz, b, rss, mixed)))


def _shrink(
    model: ImageModel,
    r: Array,
    qtz: Array,
    probes: NDArray[np.float32],
    layout: Layout,
    components: Sequence[Component],
) -> ImageModel:
    """Shrink the coefficients by component.

    With a mirror, what left and right share of an effect and how they differ are two parts of the latent.
    """
    parts, mirror = layout.parts, layout.mirror
    channels, *lattice = model.residual_variance.shape
    # Where participants have several scans, least squares is noisier than its residuals tell: the draws know how much.
    drawn = sum(np.square(np.tensordot(r[1:], step, axes=1)).sum(axis=0) for step in model.draws)
    of_part = np.repeat(np.arange(len(parts)), parts)
    by_channel = [each.reshape(channels, -1).sum(axis=1) for each in (drawn, model.residual_variance)]
    of_draws, of_residuals = (np.bincount(of_part, weights=each) for each in by_channel)
    inflation = of_draws / np.maximum(of_residuals * DRAWS * (len(r) - 1), np.finfo(float).tiny)
    probes = probes.reshape(len(probes), channels, -1)
    probes *= np.sqrt(inflation, dtype=np.float32)[of_part, None]  # in place: they are the largest of all arrays

    def by_side(maps: NDArray[Any]) -> NDArray[Any]:
        maps = maps.reshape(len(maps), channels, *lattice)
        return maps if mirror is None else mirror.split_sides(maps)

    mirrored = 0 if mirror is None else len(mirror.sources)
    both = [part for part, end in zip(parts, np.cumsum(parts), strict=True) if end <= mirrored]
    shares = by_component(r, by_side(qtz), by_side(probes), model.degrees_of_freedom, [*both, *parts], components)
    sides = ""
    if mirror is not None:
        sides = "differ" if shares.variances[len(both) : 2 * len(both)].any() else "match"
    shrunk = shares.shrink(by_side(model.coefficients))
    b = shrunk if mirror is None else mirror.join_sides(shrunk)
    apart = np.array(shares.apart, dtype=np.str_)
    return replace(
        model,
        coefficients=b,
        estimator="shrinkage by component",
        sides=sides,
        apart=apart,
        apart_share=np.ones(len(apart)),
    )


def _refine(
    model: ImageModel, options: ImageOptions, x: Array, q: Array, r: Array, qtz: Array, rss: float
) -> ImageModel:
    """Shrink and smooth the coefficients."""
    b, estimator, penalty = model.coefficients, model.estimator, 0.0
    if options.shrinkage == "ridge":
        penalty, matrix = ridge(x, q, r, qtz, rss)
        b, estimator = _mapped(matrix, b), "ridge"
    elif options.rank is not None and options.rank < len(r) - 1:
        b, estimator = _mapped(low_rank(r, qtz, options.rank), b), "low rank"
    if options.smoothing_voxels:
        estimator += ", smoothed"
        b = smooth(b, x.mean(axis=0), options.smoothing_voxels)
    return replace(model, coefficients=b, estimator=estimator, penalty=penalty)


def _mapped(matrix: Array, b: Array) -> Array:
    return np.asarray(np.tensordot(matrix, b, axes=1), dtype=np.float64)


def robust_covariance(
    image: ImageModel, sample: Sample, sandwich: Sandwich, tested: Array, device: torch.device = CPU
) -> Array:
    """Covariance of T'z, (k, k, latents flat), by `sandwich` in one more pass over the store. tested: T (n, k)."""
    order = np.argsort(sandwich.codes, kind="stable")
    codes, ordered = sandwich.codes[order], sample.take(order)
    x_on = to_device(ordered.x, device)
    b = to_device(image.coefficients.reshape(len(image.columns), -1), device)
    weights_on, groups_on = to_device(sandwich.weights(tested)[order], device), to_device(codes, device)
    covariance = b.new_zeros((tested.shape[1], tested.shape[1], b.shape[1]))
    for block, tile, z in ordered.blocks(device, keep_together=codes):
        z -= x_on[block] @ b[:, tile]
        group, groups = groups_on[block] - codes[block][0], codes[block][-1] - codes[block][0] + 1
        scores = [
            z.new_zeros((groups, z.shape[1])).index_add_(0, group, column[block, None] * z) for column in weights_on.T
        ]
        for i, left in enumerate(scores):
            for j, right in enumerate(scores[: i + 1]):
                covariance[i, j, tile] += (left * right).sum(dim=0)
                covariance[j, i, tile] = covariance[i, j, tile]
    return covariance.cpu().numpy()
