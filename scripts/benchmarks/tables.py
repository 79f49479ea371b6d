"""Tables of figures, printed row by row as they come."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
"""A row of a table: figures by the names of their columns."""


class Scaled(float):
    """Scaled up from a part of the work; printed with ~."""


def show(value: object) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    mark = "~" if isinstance(value, Scaled) else ""
    return mark + (f"{value:.2f}" if value < 10 else f"{value:.0f}")


def print_table(title: str, rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and return them."""
    print(f"\n{title}\n")
    printed: list[Row] = []
    for row in rows:
        widths = [max(len(name), 8) for name in row]
        for line in (row.values(),) if printed else (row.keys(), row.values()):
            cells = (show(cell).rjust(width) for cell, width in zip(line, widths, strict=True))
            print("  ".join(cells), flush=True)
        printed.append(row)
    return printed
