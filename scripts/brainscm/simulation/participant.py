"""One participant's anatomy: their own deformation of a canonical head, and how ageing and disease change it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from brainscm.errors import BrainSCMError
from brainscm.simulation.anatomy import BRAIN_LATTICE, FLOW_LATTICE, TISSUES, CanonicalHead
from brainscm.simulation.causal_model import Nodes, generator
from brainscm.simulation.deformation import Lattice, among, exponential, greatest_speed, jacobian_determinant

PARTICIPANT_LATTICE = Lattice.spanning((-115.0, -140.0, -200.0), (115.0, 135.0, 120.0), 5.0)
# Smoothness and standard deviation, in mm, of the two fields that make one head unlike another.
INDIVIDUALITY_MM = ((28.0, 3.5), (9.0, 1.5))
PROPORTIONS_SD = 0.03

NODE_ML = FLOW_LATTICE.spacing_mm**3 / 1000


@dataclass(frozen=True)
class Anatomy:
    """What a participant keeps for life.

    head: what they are a deformation of.
    scale: (3,) size of their head relative to the canonical one, along each axis.
    displacement: (3, x, y, z) on PARTICIPANT_LATTICE, in mm, from their scaled head to the canonical one.
    volume_factor: (x, y, z) on FLOW_LATTICE, ml of their head for each ml of the canonical one.
    """

    head: CanonicalHead
    scale: torch.Tensor
    displacement: torch.Tensor
    volume_factor: torch.Tensor


def draw_anatomy(head: CanonicalHead, seed: int, participant: str, head_size_ml: float) -> Anatomy:
    """Draw a participant's smooth deformation and proportions; their cranial cavity has `head_size_ml`."""
    draw = generator(seed, participant, "anatomy")
    velocity = np.zeros((3, *PARTICIPANT_LATTICE.shape), dtype=np.float32)
    for smoothness_mm, sd_mm in INDIVIDUALITY_MM:
        white = draw.standard_normal(velocity.shape, dtype=np.float32)
        field = ndimage.gaussian_filter(white, (0, *[smoothness_mm / PARTICIPANT_LATTICE.spacing_mm] * 3))
        velocity += field * (sd_mm / field.std())
    displacement = _checked(exponential(torch.from_numpy(velocity), PARTICIPANT_LATTICE), PARTICIPANT_LATTICE)
    back = _checked(exponential(torch.from_numpy(-velocity), PARTICIPANT_LATTICE), PARTICIPANT_LATTICE)
    factor = jacobian_determinant(back, PARTICIPANT_LATTICE.spacing_mm)
    factor = PARTICIPANT_LATTICE.sample(factor[None], FLOW_LATTICE.points())[0]
    cavity_ml = float((factor * head.cavity).double().sum()) * NODE_ML
    proportions = np.exp(draw.normal(0, PROPORTIONS_SD, 3))
    scale = proportions * (head_size_ml / cavity_ml / proportions.prod()) ** (1 / 3)
    return Anatomy(head, torch.from_numpy(scale).float(), displacement, factor * (head_size_ml / cavity_ml))


def _checked(displacement: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """The displacement itself, once its Jacobian is known to be positive everywhere."""
    if not bool((jacobian_determinant(displacement, lattice.spacing_mm) > 0).all()):
        raise BrainSCMError("The simulator's deformation of a head folds space; ask for a smaller change.")
    return displacement


def ageing_displacement(anatomy: Anatomy, nodes: Nodes) -> torch.Tensor:
    """Displacement (3, x, y, z) on FLOW_LATTICE, in mm, that gives a head the volumes and the sulci of `nodes`.

    The ventricular and the temporal volume hold within 0.5 % in native ml. Raises BrainSCMError where no smooth,
    invertible change of this head has them.
    """
    strengths = _solve_strengths(anatomy, nodes)
    velocity = _velocity(anatomy.head.flows, nodes.sulcal_widening, strengths)
    return _checked(exponential(velocity, FLOW_LATTICE), FLOW_LATTICE)


def _velocity(flows: dict[str, torch.Tensor], sulci: float, strengths: NDArray[np.float64]) -> torch.Tensor:
    return sulci * flows["sulci"] + float(strengths[0]) * flows["ventricles"] + float(strengths[1]) * flows["temporal"]


def _solve_strengths(anatomy: Anatomy, nodes: Nodes) -> NDArray[np.float64]:
    """Strengths of the ventricular and the temporal flow that give both volumes (Broyden's method).

    The square root of the ventricles and the logarithm of the temporal grey matter are nearly linear in the strengths.
    """
    target = np.array([np.sqrt(nodes.ventricles), np.log(nodes.medial_temporal_gm)])
    head = anatomy.head
    block, lattice = FLOW_LATTICE.block(*head.deep_nodes)
    points = lattice.points()
    # Between the nodes a displacement is interpolated, so the middles of the cells must be counted, too.
    points = torch.stack([points, points + lattice.spacing_mm / 2])
    ml = FLOW_LATTICE.sample(anatomy.volume_factor[None], points)[0].double() * NODE_ML / 2
    flows = {name: flow[(slice(None), *block)] for name, flow in head.flows.items()}

    def missing_at(strengths: NDArray[np.float64]) -> NDArray[np.float64]:
        return target - _deep_volumes(head, points, ml, _velocity(flows, nodes.sulcal_widening, strengths))

    slopes = np.array([[0.40, 0.12], [0.015, -0.20]])
    strengths = np.zeros(2)
    missing = missing_at(strengths)
    for _ in range(15):
        if abs(missing[0]) < 0.0025 * target[0] and abs(missing[1]) < 0.005:
            return strengths
        step = np.clip(np.linalg.solve(slopes, missing), -8, 8)
        strengths = strengths + step
        before, missing = missing, missing_at(strengths)
        slopes += np.outer(before - missing - slopes @ step, step) / (step @ step)
    raise BrainSCMError(
        f"The simulator cannot give this head {nodes.ventricles:.1f} ml of ventricles and "
        f"{nodes.medial_temporal_gm:.1f} ml of medial temporal grey matter; ask for a smaller change."
    )


def _deep_volumes(
    head: CanonicalHead, points: torch.Tensor, ml: torch.Tensor, velocity: torch.Tensor
) -> NDArray[np.float64]:
    """Square root of the ventricular and logarithm of the temporal grey-matter volume, in native ml.

    points: (2, x, y, z, 3), the nodes of the head's deep block and the middles of the cells that they begin; ml: (2, x,
    y, z) of the head that each stands for. velocity: on the block.
    """
    _, lattice = FLOW_LATTICE.block(*head.deep_nodes)
    flow = exponential(velocity, lattice)
    # No flow in unit time leads further than its greatest speed: points further away from both volumes hold nothing of
    # them. Interpolation reaches another 1.8 mm, from corner to corner of a cell of BRAIN_LATTICE.
    near = distance_to_deep(head) <= greatest_speed(velocity) + 2
    points = among(points, near)
    points = points + lattice.sample(flow, points).movedim(0, -1)
    gm, ventricles, temporal = BRAIN_LATTICE.sample(head.tissues[TISSUES.index("gm") :], points)
    held = torch.zeros(2, *near.shape, dtype=torch.float64)
    held[:, near] = torch.stack([ventricles, gm * temporal]) * ml[near]
    return np.array([np.sqrt(float(held[0].sum())), np.log(float(held[1].sum()))])


@lru_cache(maxsize=1)
def distance_to_deep(head: CanonicalHead) -> torch.Tensor:
    """How many mm the points of `_deep_volumes` lie from the canonical ventricles and temporal region: (2, x, y, z).

    All of them are nodes of BRAIN_LATTICE.
    """
    window = tuple(slice(2 * nodes.start, 2 * nodes.stop) for nodes in FLOW_LATTICE.block(*head.deep_nodes)[0])
    ventricles, temporal = head.tissues[(slice(TISSUES.index("ventricles"), None), *window)].numpy()
    distance = torch.from_numpy(ndimage.distance_transform_edt((ventricles == 0) & (temporal == 0))).float()
    return torch.stack([distance[::2, ::2, ::2], distance[1::2, 1::2, 1::2]])
