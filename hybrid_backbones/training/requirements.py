"""What commands look at before their work rather than fail after it, each in one line."""

from pathlib import Path

from mmengine.config import Config


def require_keys(cfg: Config, *keys: str) -> None:
    """Check that a config has these keys.

    Raises:
        ValueError: names those that it lacks.
    """
    if missing := [key for key in keys if cfg.get(key) is None]:
        raise ValueError(
            f"the config {cfg.filename} does not set {', '.join(missing)}: expected the config of "
            "a model, such as those in configs/"
        )


def require_writable_file(out: Path) -> None:
    """Check that a file can be written; make its folder where there is none.

    Raises:
        ValueError: with the system's reason.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        known = out.exists()
        out.open("a").close()
        if not known:
            out.unlink()
    except OSError as error:
        raise ValueError(f"cannot write {out} ({error}): choose another file") from error


def require_score(score: float) -> None:
    """Check the lowest score of what is drawn.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    # written so that what is not a number does not pass
    if not 0 <= score <= 1:
        raise ValueError(f"--score-thr must be from 0 to 1, got {score}")
