"""What is fitted once, before any test scan is scored: the study's peers, and the calibration of every method."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brainscm.encoding.model import load_encoder, save_encoder
from brainscm.encoding.pca import PCA
from brainscm.evaluation.calibration import calibrate
from brainscm.evaluation.cases import Case
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.intervals import Calibration
from brainscm.evaluation.methods import Method, Methods, Voxels
from brainscm.evaluation.questions import queries_to_calibrate
from brainscm.files import write_json
from brainscm.parallel import one_thread
from brainscm.scm.image import ImageModel
from brainscm.training.volume_store import VolumeStore

VOXEL, SHRUNKEN, PCA_SCORES = "voxel_glm.npz", "voxel_shrunken.npz", "pca_glm.npz"
COMPONENTS, CALIBRATIONS = "pca.pt", "calibrations.json"


@dataclass(frozen=True)
class Peers:
    """The fitted methods, and by the name of each query of `queries_to_calibrate` and method what intervals need."""

    methods: Methods
    calibrated: Mapping[str, Mapping[str, Calibration]]

    @classmethod
    def fit(
        cls, inputs: EvaluationInputs, cases: Sequence[Case], regional: RegionalModel, with_follow_ups: bool
    ) -> Peers:
        """Fit on the scans of the causal model, and calibrate the questions of `cases`.

        Args:
            with_follow_ups: whether follow-ups are calibrated, too.
        """
        scm, scans = inputs.scm, inputs.scans
        # The peers read every training scan several times: decoded once, to a file that is gone at the end.
        with tempfile.TemporaryDirectory() as folder:
            volumes = VolumeStore.open_or_build(scans, scm.training["scan"].tolist(), Path(folder)).volumes
            with one_thread():
                methods = Methods.fit(scm, inputs.encoder, volumes, scans.grid.shape, inputs.components)
        queries = queries_to_calibrate(cases, scm, scans.usable, with_follow_ups)
        return cls(methods, calibrate(queries, inputs, methods, regional))

    def write(self, folder: Path, inputs: EvaluationInputs) -> None:
        """Write what `read` reads. Of the peers no draws are kept: nobody asks for them."""
        methods = self.methods
        _without_draws(methods.voxel_glm).save(folder / VOXEL)
        if methods.voxel_shrunken is not None:
            _without_draws(methods.voxel_shrunken).save(folder / SHRUNKEN)
        _without_draws(methods.pca_glm).save(folder / PCA_SCORES)
        assert isinstance(methods.pca_glm.encoder, PCA)
        save_encoder(methods.pca_glm.encoder, inputs.store.identity, folder / COMPONENTS)
        calibrated = {
            query: {name: each.as_json() for name, each in of_query.items()}
            for query, of_query in self.calibrated.items()
        }
        write_json(folder / CALIBRATIONS, calibrated)

    @classmethod
    def read(cls, folder: Path, inputs: EvaluationInputs) -> Peers | None:
        """Read what `write` has written; None from an empty folder.

        Raises:
            BrainSCMError: a model is damaged.
        """
        if not (folder / CALIBRATIONS).exists():
            return None
        voxels = Voxels(inputs.scans.grid.shape, inputs.encoder.layout.mirror is not None)
        shrunken = ImageModel.load(folder / SHRUNKEN) if (folder / SHRUNKEN).exists() else None
        calibrated = json.loads((folder / CALIBRATIONS).read_text())
        methods = Methods(
            voxel_glm=Method("voxel_glm", voxels, ImageModel.load(folder / VOXEL)),
            voxel_shrunken=None if shrunken is None else Method("voxel_shrunken", voxels, shrunken),
            pca_glm=Method("pca_glm", load_encoder(folder / COMPONENTS), ImageModel.load(folder / PCA_SCORES)),
            latent_glm=Method("latent_glm", inputs.encoder, inputs.scm.image),
        )
        return cls(
            methods,
            {
                query: {name: Calibration.from_json(each) for name, each in of_query.items()}
                for query, of_query in calibrated.items()
            },
        )


def _without_draws(method: Method) -> ImageModel:
    return replace(method.image, draws=method.image.draws[:0])
