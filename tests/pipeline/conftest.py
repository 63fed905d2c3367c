"""What the tests of pipelines share."""

import pytest
from pipeline_pairs import Theirs, ours


@pytest.fixture(scope="module")
def theirs():
    """diffusers' side of a family, made once."""
    made = {}

    def get(*family):
        if family not in made:
            made[family] = Theirs(ours(*family))
        return made[family]

    return get
