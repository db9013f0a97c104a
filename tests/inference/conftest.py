"""The scope as it was, after every test of a demo."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def _alone():
    """Leave the scope as it was."""
    with DefaultScope.overwrite_default_scope(None):
        yield
