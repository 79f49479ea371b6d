"""A table for the terminal, as plain text."""

import io
import shutil
from collections.abc import Sequence

from tileconv.text import visible


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their heads, as wide as the terminal; columns named ``>x`` end right.

    >>> print(table(["Input", ">Blocks"], [["a.tif", "16"], ["b.tif", "4"]]))
    Input  Blocks
    a.tif      16
    b.tif       4
    """
    from rich.console import Console  # noqa: PLC0415 - one file in, one out needs no table
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415 - names of files are text, not rich's markup

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in columns:
        grid.add_column(
            Text(head.removeprefix(">")),
            justify="right" if head.startswith(">") else "left",
            overflow="fold",
            header_style="none",
        )
    for row in rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    width = shutil.get_terminal_size((100, 24)).columns
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as page:
        console.print(grid)
    return "\n".join(line.rstrip() for line in page.get().splitlines())
