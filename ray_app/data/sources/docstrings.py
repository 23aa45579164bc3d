"""The documentation of installed packages: a real corpus of English that every machine has.

A row is a module's, class' or function's docstring, without its indentation, labelled by package.
"""

import ast
from collections.abc import Iterator

from ray_app.data.sources._installed import Installed, definitions


class Docstrings(Installed):
    """Reads docstrings with `ast` and imports nothing; tests are left out, duplicates stay."""

    bytes_per_row = 2600

    def _texts(self, tree: ast.Module, content: str) -> Iterator[tuple[str, str]]:
        for name, node in [("", tree), *definitions(tree.body)]:
            if text := ast.get_docstring(node):
                yield name, text
