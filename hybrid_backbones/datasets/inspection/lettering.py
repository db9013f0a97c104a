"""Names of a user's own in pictures: drawn as they are, in fonts that have their characters."""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from matplotlib import rc_context, rcParams
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from .findings import printable


def plain(name: str) -> str:
    r"""Return a name as text that matplotlib draws as it is.

    A ``$`` begins no formula if it is ``\$``; legends of matplotlib 3.8 leave out labels that begin
    with ``_``.
    """
    return re.sub("^_", " _", printable(name)).replace("$", r"\$")


@contextmanager
def fonts_for(names: Iterable[str]) -> Iterator[str]:
    """Draw with further fonts for the characters that the default font of matplotlib lacks.

    Yields:
        characters that no installed font has, which are drawn as boxes.
    """
    wanted = {ord(letter) for name in names for letter in name if letter.isprintable()}
    missing = wanted - FT2Font(findfont(FontProperties())).get_charmap().keys()
    families = []
    for font in fontManager.ttflist:
        if not missing:
            break
        if found := missing & FT2Font(font.fname).get_charmap().keys():
            families.append(font.name)
            missing -= found
    with (
        rc_context({"font.family": [*rcParams["font.family"], *families]}),
        warnings.catch_warnings(),
    ):
        # one warning for each character
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
        yield "".join(map(chr, sorted(missing)))
