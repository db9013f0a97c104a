"""Which cases of a law are part of .ci/run, and which are left to `pytest -m exhaustive`."""

import pytest


def in_turn(cases, others):
    """Return all pairs; .ci/run takes one of each case, with each of the others in turn."""
    return [
        pytest.param(case, other, marks=() if i % len(others) == j else pytest.mark.exhaustive)
        for i, case in enumerate(cases)
        for j, other in enumerate(others)
    ]


def few_of(cases, *taken):
    """Return the cases of a slow law, those that are not taken as exhaustive ones.

    Args:
        cases: names, or parameters with an `id`.
        taken: names of those that are part of .ci/run.
    """
    named = [case if hasattr(case, "id") else pytest.param(case, id=case) for case in cases]
    assert {*taken} <= {case.id for case in named}
    return [
        pytest.param(
            *case.values,
            id=case.id,
            marks=pytest.mark.slow if case.id in taken else pytest.mark.exhaustive,
        )
        for case in named
    ]
