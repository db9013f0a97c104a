"""Tab Compare backbones."""


def build() -> None:
    """Lay out the tab."""
