"""Checks that commands make before they start to work; each fails with one line."""

from mmengine.config import Config

from ..requirements import require_device, require_writable_file

__all__ = ["require_device", "require_keys", "require_score", "require_writable_file"]


def require_keys(cfg: Config, *keys: str) -> None:
    """Check that a config sets these keys.

    Raises:
        ValueError: if any is missing; the message names them.
    """
    if missing := [key for key in keys if cfg.get(key) is None]:
        raise ValueError(
            f"the config {cfg.filename} does not set {', '.join(missing)}: expected the config of "
            "a model, such as those in configs/"
        )


def require_score(score: float) -> None:
    """Check the minimum score of drawn predictions.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    # this form also rejects NaN
    if not 0 <= score <= 1:
        raise ValueError(f"--score-thr must be from 0 to 1, got {score}")
