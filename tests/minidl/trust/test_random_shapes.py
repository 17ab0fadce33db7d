"""Every operator that has a gradient, called with random shapes, axes, windows and options."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from minidl import ops
from tests.minidl.trust.shapes import STRATEGIES, Case
from tests.minidl.trust.shapes.checking import REASONS, check, drawn

EXAMPLES = 4


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_values_and_gradients_of_random_calls(name: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn(name))
    def run(case: Case) -> None:
        check(case)

    run()


def test_every_operator_has_random_shapes_or_a_reason() -> None:
    covered = {*STRATEGIES, *REASONS}
    assert set(ops.__all__) - covered == set(), "add a strategy to tests/minidl/trust/shapes"
    assert covered - set(ops.__all__) == set(), "no such operators"
    assert not set(STRATEGIES) & set(REASONS)
