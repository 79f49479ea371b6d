"""Print the lowest releases that pyproject.toml allows, one a line, as pip's constraints."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

EXTRAS = ("cluster", "fast", "quicklook", "test", "xarray", "zarr")


def lowest(project: dict) -> Iterator[str]:
    """Yield a constraint for each requirement that has a lower bound."""
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(text for name in EXTRAS for text in extras[name])]:
        found = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)", text)
        if found:
            yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    with (root / "pyproject.toml").open("rb") as file:
        print("\n".join(sorted(set(lowest(tomllib.load(file)["project"])))))
