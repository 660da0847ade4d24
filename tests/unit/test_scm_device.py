"""The products of the fit and of its tests are all made on the device that is asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from brainscm.scm.image import fit_image, robust_covariance
from brainscm.scm.permutation import max_statistics
from brainscm.scm.robust import CR2, Sandwich
from brainscm.scm.sample import Sample
from brainscm.scm.weighting import row_squares

# A device whose tensors have shapes and no data: it takes all that a GPU takes, and refuses only the way back.
META = torch.device("meta")
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(20), RNG.standard_normal((20, 2))])
Z = RNG.standard_normal((20, 4, 3, 3), dtype=np.float32)
SAMPLE = Sample.of(X, [*"1ab"], Z, [str(i // 2) for i in range(20)])
CONTRAST = np.eye(3)[1:2]
MODEL = fit_image(SAMPLE, seed=0)
SANDWICH = Sandwich.of(np.linalg.qr(X)[0], SAMPLE.clusters, CR2)
TESTED = SANDWICH.q[:, 1:2]


class Apart(TorchDispatchMode):
    """Refuses what a GPU refuses: an operation on tensors of two devices, but for a copy. Counts the others."""

    products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if "copy" not in func.__name__:
            assert len({each.device.type for each in tensors if each.ndim}) <= 1, f"{func} on two devices"
            products = ("mm.default", "addmm_.default", "index_add_.default")
            self.products += func.__name__ in products and tensors[0].device == META
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("work", "products"),
    [
        pytest.param(lambda: fit_image(SAMPLE, seed=0, device=META), 2, id="fit"),
        pytest.param(lambda: robust_covariance(MODEL, SAMPLE, SANDWICH, TESTED, META), 2, id="robust"),
        pytest.param(lambda: max_statistics(SAMPLE, [CONTRAST], 5, 0, META), 3, id="permutation"),
        pytest.param(lambda: row_squares(np.linalg.qr(X)[0], SAMPLE, META), 2, id="weights"),
    ],
)
def test_all_is_multiplied_on_the_given_device(work: Callable[[], Any], products: int) -> None:
    with Apart() as apart, pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        work()
    assert apart.products == products
