"""Print the structure of the package in numbers: lines, circles of imports, sizes of functions.

python scripts/shape.py            of tileconv
python scripts/shape.py FOLDER     of another package

A circle counts imports for types, too. A body is the lines of a function's statements, without
its docstring.
"""

import argparse
import ast
from collections import defaultdict
from itertools import chain
from pathlib import Path
from statistics import median, quantiles

PACKAGE = Path(__file__).parent.parent / "tileconv"
MANY = 8
"""Positional parameters that are not yet too many."""


def parse(package):
    """Return the tree of each module, by its name inside the package."""
    trees = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        trees[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


def functions(tree):
    """Return all functions of a module, inner ones too."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_lines(function):
    """Return the lines of a function's statements without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def positional(function):
    """Return how many parameters may be given by position."""
    return len(function.args.posonlyargs) + len(function.args.args)


def unpacks_range(node):
    """Say whether an assignment gives names to the numbers of a range."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") == "range"
    )


def imports(tree, package, names):
    """Return the package's own modules that a module imports, for types too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    prefix = f"{package}."
    return {name.removeprefix(prefix) for name in found if name.startswith(prefix)} & names


def circles(graph):
    """Return the groups of modules that reach each other by imports."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {
        frozenset(other for other in reach[name] if name in reach[other])
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


def shape(package):
    """Return lines of text that describe a package."""
    trees = parse(package)
    folders = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        folders[parts[0] if len(parts) > 1 else "."].append(path)
    rows = []
    for folder, paths in [(package.name, [*chain(*folders.values())]), *sorted(folders.items())]:
        texts = [path.read_text() for path in paths]
        bodies = [body_lines(f) for text in texts for f in functions(ast.parse(text))] or [0]
        p90 = quantiles(bodies, n=10, method="inclusive")[-1] if len(bodies) > 1 else bodies[0]
        lines = sum(text.count("\n") for text in texts)
        rows.append(
            f"{folder:<12} {len(paths):>5} {lines:>7} {median(bodies):>7.0f} {p90:>5.0f} "
            f"{max(bodies):>5}"
        )
    found = circles({n: imports(t, package.name, {*trees}) - {n} for n, t in trees.items()})
    many = [
        f"{name}.{f.name}"
        for name, tree in trees.items()
        for f in functions(tree)
        if positional(f) > MANY
    ]
    unpacks = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if unpacks_range(node)
    ]
    return [
        f"{'folder':<12} {'files':>5} {'lines':>7} {'median':>7} {'p90':>5} {'max':>5}",
        *rows,
        f"import circles: {len(found)}",
        *(f"  {' <-> '.join(circle)}" for circle in found),
        f"functions of more than {MANY} positional parameters: {len(many)}",
        *(f"  {name}" for name in many),
        f"names unpacked from a range: {len(unpacks)}",
        *(f"  {place}" for place in unpacks),
    ]


def main():
    """Print the shape of a package."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", nargs="?", type=Path, default=PACKAGE)
    print(*shape(parser.parse_args().package.resolve()), sep="\n")


if __name__ == "__main__":
    main()
