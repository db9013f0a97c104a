"""What an inspection finds in a data set: problems by kind, and the statistics of its pictures."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .images import ImageReport

# number of examples in the line of a kind
NUM_EXAMPLES = 3


def printable(text: str) -> str:
    """Return a text of one line with control characters and bytes that are no text escaped."""
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


class Problems:
    """Problems of a data set: for each kind, all examples in the order in which they were found."""

    def __init__(self):
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, *examples: str) -> None:
        """Add examples of a kind, such as 'images missing', with control characters escaped."""
        if examples:
            self.examples.setdefault(kind, []).extend(map(printable, examples))

    def add_all(self, problems: Iterable[tuple[str, str]]) -> None:
        """Add problems as (kind, example)."""
        for kind, example in problems:
            self.add(kind, example)

    def __len__(self) -> int:
        return sum(map(len, self.examples.values()))

    def lines(self) -> list[str]:
        """Return one line for each kind, with its count and its first examples."""
        return [
            f"{kind}: {len(examples)}, {'such as ' * (len(examples) > NUM_EXAMPLES)}"
            f"{'; '.join(examples[:NUM_EXAMPLES])}"
            for kind, examples in self.examples.items()
        ]


class Findings:
    """What was found in one data set.

    Attributes:
        classes: names of the classes.
        problems: problems of its files.
        images: paths of the images that it lists.
        digests: digests of the readable ones by path, which copies share.
        num_objects: annotated objects, or images, by class.
        num_images: images that have a class, by class.
        num_pixels: pixels by class, of label maps.
        boxes: widths and heights of the boxes in pixels, (N, 2).
    """

    def __init__(self, classes: Iterable[str]):
        self.classes = tuple(classes)
        self.problems = Problems()
        self.images: list[Path] = []
        self.digests: dict[Path, bytes] = {}
        self.num_objects: Counter[str] = Counter()
        self.num_images: Counter[str] = Counter()
        self.num_pixels: Counter[str] = Counter()
        self.boxes = np.zeros((0, 2))

    def add_image(self, path: Path, report: ImageReport) -> None:
        """Add an image and what its inspection found."""
        self.images.append(path)
        self.problems.add_all(report.problems)
        if report.digest:
            self.digests[path] = report.digest

    def lines(self) -> list[str]:
        """Return what is in the set, and one line for each kind of problem."""
        objects = f", {self.num_objects.total()} objects" if self.num_objects else ""
        counts = f"{len(self.images)} images{objects}, {len(self.classes)} classes"
        absent = [name for name in self.classes if not self.num_images[name]]
        if absent:
            more = f" and {len(absent) - NUM_EXAMPLES} more" * (len(absent) > NUM_EXAMPLES)
            counts += f"; none of {', '.join(absent[:NUM_EXAMPLES])}{more}"
        return [counts, *self.problems.lines()]


def shared_images(one: Findings, other: Findings) -> list[str]:
    """Return the images of a set that are in another set, too, under the same or another name.

    A copy has the same bytes; both names are given.
    """
    known, copied = set(other.images), {digest: path for path, digest in other.digests.items()}
    shared = []
    for path in sorted(set(one.images)):
        if path in known:
            shared.append(str(path))
        elif (digest := one.digests.get(path)) in copied:
            shared.append(f"{path} (a copy of {copied[digest]})")
    return shared
