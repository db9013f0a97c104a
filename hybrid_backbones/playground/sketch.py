"""Tab Search by sketch."""

from .models import Models


def build(models: Models) -> None:
    """Lay out the tab."""
