"""The house of the architecture: imports only go downwards."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import tileconv
from tileconv.jobs.config import OutputConfig
from tileconv.operators.reduction import STATISTICS
from tileconv.raster.formats import FORMATS

PACKAGE = Path(tileconv.__file__).parent

# A module may import modules of lower floors, and of its own folder.
FLOORS = {
    "version": -1,
    "text": -1,
    "bounded": -1,
    "errors": 0,
    "arguments": 1,
    "buffers": 1,
    "padding": 2,
    "geometry": 3,  # the rules of semantics.md, padding first
    "kernels": 3,
    "dtypes": 2,
    "missing": 3,
    "propagation": 4,
    "operators": 5,
    "engine": 6,
    "planning": 7,  # the plan names the algorithm that the engine chooses
    "finish": 7,
    "pad": 8,
    "focal_tile": 8,
    "tile": 9,
    "raster": 9,
    "arrays": 10,
    "jobs": 10,
    "data": 10,
    "gallery": 10,
    "cluster": 11,
    "api": 12,
    "runs": 12,
    "files": 13,
    "xarray": 13,
    "verify": 13,
    "cli": 14,
    "rio": 14,
    "__init__": 14,
    "__main__": 15,
}
FACES = {  # the modules of a folder that others may import
    "cluster": {"start"},
    "raster": {"reading", "writing"},
}
KNOWS = {  # outside libraries, and the only places that may know them
    "dask": {"jobs", "arrays", "cluster"},
    "distributed": {"cluster"},
    "rasterio": {"raster", "rio"},
    "tifffile": {"raster"},
    "imagecodecs": {"raster"},
    "zarr": {"raster"},
    "google_crc32c": {"raster"},
    "yaml": {"jobs"},
    "pydantic": {"jobs"},
    "numba": {"engine"},
    "llvmlite": {"engine"},
    "click": {"cli", "rio"},
    "rich": {"cli", "jobs"},
    "psutil": {"jobs"},
    "PIL": {"jobs"},
    "xarray": {"arrays", "xarray"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], ".".join(parts), ast.parse(path.read_text())


def imported(tree):
    """Names that a module imports; those under ``if TYPE_CHECKING`` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_floor():
    assert {part for part, _, _ in modules()} == set(FLOORS)


def test_imports_go_downwards():
    for part, name, tree in modules():
        for target in imported(tree):
            if not target.startswith("tileconv."):
                continue
            other = target.split(".")[1]
            if other not in FLOORS or other == part:
                continue
            assert FLOORS[other] < FLOORS[part], f"{name} imports {target}"


def test_folders_are_entered_by_their_faces():
    """What is behind a face may be renamed, split and joined without a word to anybody else."""
    for part, name, tree in modules():
        for target in imported(tree):
            _, folder, module = f"{target}..".split(".")[:3]
            if target.startswith("tileconv.") and folder in FACES and folder != part and module:
                assert module in FACES[folder], f"{name} imports {target}"


def test_raster_knows_no_operator_and_arrays_know_no_files():
    for part, name, tree in modules():
        names = set(imported(tree))
        if part == "raster":
            assert not any(n.startswith(("tileconv.operators", "tileconv.engine")) for n in names)
        if part == "arrays":
            assert not any(n.startswith(("tileconv.raster", "tileconv.jobs")) for n in names), name


def test_only_their_own_place_knows_outside_libraries():
    for part, name, tree in modules():
        for target in imported(tree):
            library = target.split(".")[0]
            if library in KNOWS:
                assert part in KNOWS[library], f"{name} imports {library}"


def test_no_import_cycle():
    graph = {}
    names = {name for _, name, _ in modules()}
    for _, name, tree in modules():  # imports for types alone count too
        ours = (t for t in imported(tree) if t.startswith("tileconv."))
        targets = {t.removeprefix("tileconv.") for t in ours}
        graph[name] = {t for t in targets if t in names and t != name}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            path.append(name)
            for target in graph[name]:
                visit(target)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


def test_formats_are_asked_and_not_compared():
    """What depends on a format is a question to it, so that a new one changes nothing else."""
    drivers = {"GTiff", "COG", "Zarr", "VRT"}
    for _, name, tree in modules():
        compared = {
            leaf.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare | ast.MatchValue)
            for leaf in ast.walk(node)
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
        }
        # a dataset's spec is the one place that knows the formats of inputs
        if name != "raster.dataset_spec":
            assert not compared & drivers, name


def test_a_job_can_name_every_format():
    drivers = OutputConfig.model_fields["driver"].annotation
    literal = next(each for each in get_args(drivers) if get_args(each))
    assert get_args(literal) == tuple(FORMATS)


def test_every_public_name_is_documented_by_example():
    public = {name: getattr(tileconv, name) for name in tileconv.__all__}
    del public["__version__"], public["kernels"]
    for name, value in {**public, **tileconv.kernels.BY_NAME}.items():
        assert ">>>" in value.__doc__, name


def test_help_needs_no_numba(run_python):
    loaded = run_python(
        "import sys, tileconv.cli\n"
        "print([m for m in ('numba', 'rasterio', 'dask') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_a_plan_needs_neither_numba_nor_dask(run_python, tmp_path):
    # nor the compiler behind them: all three take longer to load than a plan to make
    loaded = run_python(
        "import sys\n"
        "from pathlib import Path\n"
        "from tileconv.cli import main\n"
        "from tileconv.data import write_starter\n"
        f"job = Path({str(tmp_path)!r}) / 'job.yaml'\n"
        "write_starter(job)\n"
        "try: main(['plan', str(job)])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print([m for m in ('numba', 'llvmlite', 'dask') if m in sys.modules])"
    )
    assert "columns-first separable loops in float32" in loaded
    assert loaded.strip().endswith("\n[]")


def test_arrays_need_nothing_that_reads_files():
    # a first call would take half a second longer
    code = "import sys, tileconv; tileconv.convolve; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    roots = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert "numba" in roots
    assert not roots & {"rasterio", "pydantic", "dask", "click", "rich"}


def test_only_operators_and_engine_know_which_operator_they_compute():
    """A new operator is one file there: plan, page, tags, hash and verify ask the protocol."""
    for part, name, tree in modules():
        if part in ("operators", "engine", "api", "__init__", "tile"):
            continue
        words = {
            word
            for node in ast.walk(tree)
            for word in (
                getattr(node, "id", None),
                getattr(node, "attr", None),
                node.name if isinstance(node, ast.alias) else None,
            )
        }
        assert not words & {"Convolution", "Reduction"}, name
        compared = {
            leaf.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare | ast.MatchValue)
            for leaf in ast.walk(node)
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
        }
        if name != "jobs.machine":  # "max" is a control group's word, too
            assert not compared & {*STATISTICS}, name
