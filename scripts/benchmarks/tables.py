"""Tables of figures: printed row by row as they come, and written into pages."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A row of a table: figures by the names of their columns."""
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
"""What the script writes in a page lies between these."""


class Scaled(float):
    """Scaled up from a part of the work; printed with ~."""


def show(value: object) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    mark = "~" if isinstance(value, Scaled) else ""
    return mark + (f"{value:.2f}" if value < 10 else f"{value:.0f}")


def print_table(title: str, rows: Iterable[Row], first: int = 0) -> list[Row]:
    """Print rows as they come, and return them; ``first`` is the width of a column of names."""
    print(f"\n{title}\n")
    printed: list[Row] = []
    for row in rows:
        widths = [max(len(name), 8) for name in row]
        for line in (row.values(),) if printed else (row.keys(), row.values()):
            cells = [show(cell).rjust(width) for cell, width in zip(line, widths, strict=True)]
            if first:
                cells[0] = cells[0].strip().ljust(first)
            print("  ".join(cells), flush=True)
        printed.append(row)
    return printed


def markdown(rows: Sequence[Row]) -> str:
    """Return a table for a page; columns without any figure are left out."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    lines = [names, ["---", *["---:"] * (len(names) - 1)]]
    lines += [[show(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_between_marks(path: Path, text: str) -> None:
    """Write ``text`` between the marks of a page, or as a page of its own."""
    marked = f"{BEGIN}\n\n{text.strip()}\n\n{END}"
    page = path.read_text() if path.exists() else ""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(before + marked + after if begin and end else marked + "\n")
