"""Numbers that look like codes are asked about, unless the graph says what they are."""

from typing import Any

import pandas as pd
import pytest

from brainscm.config import ScmOptions
from brainscm.errors import ConfigError
from brainscm.scm.codes import check_codes

SCANS = pd.DataFrame({"site": [1, 2, 3, 4] * 5, "group": [1, 2] * 10, "age": [60, 61, 62, 63] * 5, "score": range(20)})


def graph(formula: str = "site", **nodes: dict[str, Any]) -> ScmOptions:
    return ScmOptions.model_validate({"nodes": nodes, "image": {"formula": formula}})


def test_four_sites_are_asked_about() -> None:
    with pytest.raises(ConfigError, match=r'nodes.site: .* only 1, 2, 3, 4; .*\{levels: \["1", "2", "3", "4"\]\}'):
        check_codes(graph(site={}), SCANS)


@pytest.mark.parametrize(
    "options",
    [
        graph(site={"levels": ["1", "2", "3", "4"]}),
        graph(site={"unit": "points"}),
        graph(site={"family": "multinomial", "formula": "age"}, age={}),
        graph("C(site)", site={}),
        graph("group + age + score", group={}, age={}, score={}),
    ],
)
def test_what_says_what_it_is_is_not(options: ScmOptions) -> None:
    check_codes(options, SCANS)
