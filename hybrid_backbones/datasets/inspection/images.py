"""Inspection of image files: what the loading of a training refuses, and what it changes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.progress import track

from ..pictures import decode, has_16_bits, is_rotated, reason_of, stored_bits, turn_upright

MISSING = "images missing"
UNOPENED = "image files that cannot be opened"
UNREADABLE = "images truncated or not images"
REFUSED = "images of 32-bit pixels, or much longer in one direction"
ROTATED = "images stored rotated, used upright as their EXIF orientation says"
DEEP = "images of 16 bits per channel, scaled to 8 bits"
RESIZED = "images of another size than annotated"

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageReport(NamedTuple):
    """Problems of an image as (kind, example).

    If it is readable, also its size (width, height) and a digest of the file, which copies share.
    """

    problems: list[tuple[str, str]]
    size: tuple[int, int] | None = None
    digest: bytes | None = None


def inspect_image(path: Path, stated: tuple[int, int] | None = None) -> ImageReport:
    """Decode an image file and name everything that is wrong with it.

    Args:
        path: the file.
        stated: width and height that the annotations state, in pixels.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ImageReport([(MISSING, str(path))])
    except (OSError, ValueError) as error:
        # the latter for names that no file can have
        return ImageReport([(UNOPENED, f"{path} ({getattr(error, 'strerror', error)})")])
    try:
        picture = decode(content, path.name)
        rotated = is_rotated(picture, path.name)
    except ValueError as error:
        return ImageReport([(UNREADABLE, f"{path} ({_reason(error)})")])
    problems = []
    if rotated:
        problems.append((ROTATED, str(path)))
    if has_16_bits(picture) or stored_bits(content, picture) == 16:
        problems.append((DEEP, str(path)))
    try:
        picture = turn_upright(picture, path.name)
    except ValueError as error:
        problem = REFUSED, f"{path} ({picture.mode}, {_size(picture.size)})"
        if error.__cause__:
            # EXIF data that are damaged in other entries
            problem = UNREADABLE, f"{path} ({_reason(error)})"
        return ImageReport([*problems, problem])
    if stated not in (None, picture.size):
        example = f"{path} ({_size(picture.size)}, annotated {_size(stated)})"
        problems.append((RESIZED, example))
    return ImageReport(problems, picture.size, hashlib.blake2b(content, digest_size=16).digest())


def _reason(error: ValueError) -> str:
    """Return the reason that the decoder gave."""
    cause = error.__cause__
    return (reason_of(cause) if cause else str(error)).split("\n")[0]


def _size(size: Sequence[int] | None) -> str:
    return "×".join(map(str, size or ()))


def each(
    inspect: Callable[[Item], Result], items: Sequence[Item], name: str, *, quiet: bool
) -> Iterator[tuple[Item, Result]]:
    """Inspect all items in threads, in order, with a progress bar.

    Args:
        inspect: inspection of one item; decoding releases Python's lock.
        items: what to inspect.
        name: text before the bar.
        quiet: whether to show no bar.
    """
    with ThreadPoolExecutor() as pool:
        results: Iterable[Result] = pool.map(inspect, items)
        rows = zip(items, results, strict=True)
        yield from track(rows, name, total=len(items), disable=quiet)
