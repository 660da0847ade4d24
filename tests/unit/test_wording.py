import pytest

from brainscm.wording import listed


@pytest.mark.parametrize(("items", "said"), [("", ""), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_lists(items: str, said: str) -> None:
    assert listed(list(items)) == said
    assert listed(list(items), "or") == said.replace("and", "or")
