"""Parts of the README and the documentation that come from the code.

A part stands in its page between ``<!-- KIND: ARGUMENT -->`` and ``<!-- end -->``, so that it is
read wherever the page is.
"""

import re
from collections.abc import Callable

from . import overview

PARTS: dict[str, Callable[[str], str]] = {
    "configs": overview.configs_table,
    "overview": overview.overview_table,
    "variants": overview.variants_table,
    "weights": overview.weights_table,
}


def fill_parts(page: str) -> str:
    """Return the page with its parts as they are today; of other text nothing is changed."""
    pattern = rf"^(<!-- ({'|'.join(PARTS)}): (\S+) -->\n).*?^(<!-- end -->)$"
    return re.sub(
        pattern,
        lambda part: f"{part[1]}\n{PARTS[part[2]](part[3])}\n\n{part[4]}",
        page,
        flags=re.MULTILINE | re.DOTALL,
    )
