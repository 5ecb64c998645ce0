"""One self-contained HTML page about a window of the ledger: figures, charts as inline SVG, a table behind each.

`figures` asks the ledger, `charts` draws, `layout` writes the page. Nothing is loaded from anywhere, nothing is run,
and nothing of a prompt or an answer is in it.
"""

from router.page.figures import Figures, figures_of
from router.page.layout import page

__all__ = ["Figures", "figures_of", "page"]
