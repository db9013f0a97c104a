"""Docstrings as Markdown: roles and literal blocks of reStructuredText in the API pages."""

import re

import griffe

RULES = (
    # :class:`~package.Name` is `Name`
    (r":(?:class|func|meth|mod|attr):`~?([^`]*)`", r"`\1`"),
    (r"^( *)\.\. warning:: ", r"\1**Warning.** "),
    # `text::` before an indented block
    (r"::(\n\s*\n {4})", r":\1"),
)


class Markdown(griffe.Extension):
    """Rewrites docstrings when griffe has read them."""

    def on_instance(self, *, obj, **_):
        if obj.is_alias or obj.docstring is None:
            return
        for pattern, replacement in RULES:
            obj.docstring.value = re.sub(
                pattern, replacement, obj.docstring.value, flags=re.MULTILINE
            )
