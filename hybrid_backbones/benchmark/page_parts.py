"""Parts of the README and the documentation that come from the code.

A part stands in its page between ``<!-- KIND: ARGUMENT -->`` and ``<!-- end -->``, so that it is
read wherever the page is.
"""

import re
from collections.abc import Callable, Mapping

from . import overview

# kinds of parts, and what makes each from its argument; the commands add those of their arguments
PARTS: dict[str, Callable[[str], str]] = {
    "configs": overview.configs_table,
    "overview": overview.overview_table,
    "variants": overview.variants_table,
    "weights": overview.weights_table,
}


def fill_parts(page: str, parts: Mapping[str, Callable[[str], str]] = PARTS) -> str:
    """Return the page with its parts as they are today; of other text nothing is changed."""
    pattern = rf"^(<!-- ({'|'.join(parts)}): (\S+) -->\n).*?^(<!-- end -->)$"
    return re.sub(
        pattern,
        lambda part: f"{part[1]}\n{parts[part[2]](part[3])}\n\n{part[4]}",
        page,
        flags=re.MULTILINE | re.DOTALL,
    )
