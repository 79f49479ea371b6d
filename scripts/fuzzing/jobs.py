"""Odd jobs: YAML of every key, --set values and kernel files, each damaged by chance."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import tileconv
from fuzzing.digests import digest_of_folder
from fuzzing.mutations import OF_BYTES, mutate
from fuzzing.outcomes import FaultError
from fuzzing.seeds import DEFLATE, write_raster
from tileconv.cli import main as command_line

LARGEST = 256
"""Tiles of a job that is run: other ones are planned."""
SHARE_OF_COMMANDS = 0.25
"""Cases that go through the command line."""
JOBS: Mapping[str, str] = {
    "plain": """\
input: {path: scene.tif}
kernel: {weights: [[1, 0, -1], [2, 0, -2], [1, 0, -1]]}
output: {path: ../out/plain.tif}
""",
    "all of the input": """\
input:
  path: scene.tif
  bands: [2, 1]
  mask: nodata
  scaled: true
  palette: false
  root: .
  remote: false
  mosaic: false
kernel:
  name: gaussian
  size: [5, 3]
  sigma: 1.5
  normalize: true
  flip: true
stride: [2, 3]
dilation: 1
output:
  path: ../out/{stem}_smooth.tif
""",
    "all of the output": """\
input: {path: scene.tif, bands: [1]}
kernel:
  name: box
  size: 3
padding: same
padding_mode: [edge, reflect]
missing: renormalize
min_valid_fraction: 0.5
require_center: true
output:
  path: ../out/{name}.{stem}.tif
  driver: GTiff
  dtype: int16
  nodata: -9999
  compress: deflate
  predictor: 2
  level: 6
  blocksize: 32
  layout: single
  valid_fraction: false
  quicklook: false
  report: true
  overwrite: true
""",
    "focal": """\
input: {path: scene.tif}
focal:
  statistic: median
  footprint: {size: [3, 5]}
stride: 2
missing: skip
padding: same
padding_mode: missing
output: {path: ../out/focal.tif}
""",
    "fractions": """\
input: {path: scene.tif, mask: auto}
kernel: {file: kernel.npy, flip: false}
missing: fill
fill_value: 3.5
padding: [1, 2, 0, 1]
padding_mode: constant
padding_value: nan
output:
  path: ../out/fractions.tif
  valid_fraction: true
  nodata: nan
  dtype: float64
""",
    "sums over bands": """\
input: {path: scene.tif}
kernel:
  file: bank.npz:weights
groups: 2
bias: [0.5, -1]
stride: 4
output:
  path: ../out/sums.tif
  compress: none
compute:
  scheduler: synchronous
  workers: 1
  memory_limit: 1 GiB
  tile: [16, 32]
""",
    "from a table": """\
input: {path: [scene.tif, other.tif]}
kernel: {file: kernel.csv, normalize: true}
output: {path: "../out/{stem}.tif", overwrite: false}
compute: {tile: 32, workers: auto, memory_limit: auto}
""",
    "a mosaic": """\
input:
  path: [west.tif, east.tif]
  mosaic: true
kernel: {name: lanczos, stride: 3, lobes: 2}
stride: 3
output: {path: ../out/mosaic.tif}
""",
    "a stack": """\
input: {path: stack.vrt, root: .}
kernel: {name: gabor, size: 7, sigma: 2, wavelength: 4, theta: 30, phase: 0.5, aspect: 0.8}
output: {path: ../out/stack.tif}
""",
    "on the ground": """\
input: {path: scene.tif}
kernel: {name: annulus, outer: 90 m, inner: 30 m}
output: {path: ../out/ring.tif}
""",
    "a circle": """\
input: {path: "*.tif", bands: [1]}
kernel: {name: circle, radius: 2.5}
output: {path: "../out/{parent}_{stem}.tif"}
""",
    "a sharp one": """\
input: {path: scene.tif}
kernel: {name: unsharp, size: 5, sigma: 1, amount: 0.7}
output: {path: ../out/sharp.tif, driver: COG, overviews: average}
""",
    "on a cluster": """\
input: {path: scene.tif}
kernel: {name: box}
output: {path: ../out/far.vrt, layout: parts}
compute:
  cluster:
    name: LocalCluster
    options: {n_workers: 1}
    adapt: {minimum: 0, maximum: 2}
  part: auto
""",
    "on another cluster": """\
input: {path: scene.tif}
kernel: {name: box}
output: {path: ../out/far.zarr, driver: Zarr, checksum: true}
compute:
  scheduler: tls://127.0.0.1:9
  security: {tls_ca_file: ca.pem}
  part: [64, 64]
""",
    "on a third one": """\
input: {path: scene.tif}
kernel: {name: box}
output: {path: ../out/far.tif}
compute:
  cluster: {name: LocalCluster, scale: 2}
""",
}
"""Valid jobs; every key is in one of them. Those on a cluster are planned, not run."""
ODD_VALUES = (
    *("", "~", "null", "0", "-1", "1", "2", "1.5", "-0.0", "1e3", "1e-3", "1e400", ".nan", ".inf"),
    *("-.inf", "nan", "2147483647", "2147483648", "9223372036854775808", "9" * 30, "9" * 5000),
    *("0x10", "010", "1_000", "12:30", "٣", "true", "yes", "[]", "{}", "[[]]", "[1]", "[1, 2]"),
    *("[0, 0]", "[1, 2, 3]", "[1, 2, 3, 4]", "[-1, 1]", "[a, b]", "[1, [2, [3]]]", "[.nan, 1]"),
    *("{a: 1}", "{size: 3}", "[" * 30 + "]" * 30, "{a: " * 12 + "1" + "}" * 12, "x" * 300),
    *('"\\0"', '"\\uD800"', '"\\UFFFFFFFF"', '"\\x07"', '"\\N"', '"é"', "'a''b'", '"unclosed'),
    *("!!python/name:os.system", "!!binary aGk=", "&a 1", "*a", "<<", "|\n  text", ">\n  text"),
    *("same", "valid", "edge", "box", "median", "float16", "complex64", "object", "uint8", "<f4"),
    *("scene.tif", "missing.tif", "folder", "pipe", "/dev/null", "scene.tif/", "kernel.npy", "."),
    *("'*'", "'?'", "'[a'", "'**/*.tif'", "'{stem}'", "'{nothing}'", "'{0}'", "'{'", "a%20b"),
    *("../in/scene.tif", "'~'", "$HOME", "file:scene.tif", "90 m", "-90 m", "1e9 km", "9 parsec"),
    *("1 GiB", "1 B", "0 B", "1e3 MB", "99999 TiB", "synchronous", "threads", "auto", "none"),
)
"""What a value may become: no address, and no folder beside that of the case."""
KERNEL_FILES = ("kernel.npy", "bank.npz", "kernel.csv")
KEYS = ("input", "path", "kernel", "stride", "strid", "tile", "output", "0", "null", "a.b", "")


def make_files() -> dict[str, bytes]:
    """Return the rasters and kernels that the jobs name."""
    rng = np.random.default_rng(20261130)
    files = write_raster("scene.tif", rng.integers(0, 99, (2, 40, 48)).astype("int16"), nodata=7)
    files |= write_raster("other.tif", rng.random((1, 33, 35)).astype("float32"))
    for name, left in (("west.tif", 0), ("east.tif", 48)):
        array = rng.integers(0, 99, (1, 40, 48)).astype("uint8")
        files |= write_raster(name, array, left=left, **DEFLATE)
    files["stack.vrt"] = VRT.encode()
    files["kernel.npy"] = _saved(np.save, np.arange(9.0).reshape(3, 3))
    files["bank.npz"] = _saved(np.savez, weights=rng.random((2, 1, 2, 3)), other=np.ones(3))
    files["kernel.csv"] = b"0.5, 1, 0.5\n1, 2, 1\n0.5, 1, 0.5\n"
    return files


VRT = """\
<VRTDataset rasterXSize="48" rasterYSize="40">
  <VRTRasterBand dataType="Byte" band="1">
    <SimpleSource>
      <SourceFilename relativeToVRT="1">west.tif</SourceFilename>
      <SourceBand>1</SourceBand>
    </SimpleSource>
  </VRTRasterBand>
</VRTDataset>
"""


def _saved(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


@dataclass
class JobCase:
    """A job in a file, with assignments, from Python or from the command line."""

    label: str
    change: str
    text: str
    assignments: list[str]
    command: bool
    notes: list[str] = field(default_factory=list)

    def run(self, folder: Path) -> str:
        job = tileconv.load_job("job.yaml", set=self.assignments)
        jobs = job.jobs if isinstance(job, tileconv.Batch) else (job,)
        inside = all(_is_below(path, folder / "out") for each in jobs for path in each.written)
        plan = tileconv.plan(job)
        batch = isinstance(job, tileconv.Batch)
        plans = plan.done if batch else (plan,)
        large = max((each.tiles.count for each in plans), default=0) > LARGEST
        far = any(each.on_cluster for each in jobs)
        runs = inside and not large and not far
        if not runs:
            self.notes.append("planned only")
        if self.command:
            return self._by_command("run" if runs else "plan", batch=batch)
        told = _told(plan)
        if runs:
            told += _told(tileconv.run(job))
        return f"{digest_of_folder(folder / 'out')} {told}"

    def _by_command(self, command: str, *, batch: bool) -> str:
        self.notes.append(f"by command: {command}")
        arguments = [command, "job.yaml"]
        for assignment in self.assignments:
            arguments += ["--set", assignment]
        code: object = 0
        try:
            command_line(arguments, prog_name="tileconv")
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        told = os.pread(2, 1 << 16, 0).decode("utf-8", "replace")
        if code not in (0, 2, 3, 4) or "Traceback" in told:
            raise FaultError("traceback", f"exit code {code}\n{told}")
        if code and not batch:  # a batch leaves outputs of what did not fail
            raise Refused(int(code), told)
        return f"{digest_of_folder(Path('../out'))} {code}"


class Refused(tileconv.TileconvError):
    """What the command line says by its exit code."""

    def __init__(self, code: int, told: str) -> None:
        super().__init__(told)
        self.exit_code = code  # type: ignore[misc]


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _told(result: Any) -> str:
    """Return what failed in a batch, each by one of tileconv's errors."""
    str(result)
    errors = [failure.error for failure in getattr(result, "failures", ())]
    for error in errors:
        if not isinstance(error, tileconv.TileconvError):
            raise error
    return ", ".join(type(error).__name__ for error in errors)


class Jobs:
    """The cases of a seed, by number."""

    def __init__(self, seed: int, *, whole: bool = False) -> None:
        self.seed = seed
        self.whole = whole
        """Nothing is damaged: what is then a fault is one of the harness."""
        self.files = make_files()

    def warm(self, folder: Path) -> None:
        """Compile what cases need, by running sound ones in this process, without threads."""
        here, sound = Path.cwd(), Jobs(self.seed, whole=True)
        for number in range(len(JOBS)):
            place = folder / f"warm-{number}"
            for name in ("in", "out"):
                (place / name).mkdir(parents=True)
            case = sound(number, place)
            os.chdir(place / "in")
            if not any(far in case.text for far in ("cluster:", "tls:")):
                case.assignments = ["compute.scheduler=synchronous"]
            try:
                case.run(place)
            finally:
                os.chdir(here)

    def __call__(self, number: int, folder: Path) -> JobCase:
        """Make the case of a number, with its files in a folder ``in``."""
        random = Random(f"job {self.seed} {number}")
        label = list(JOBS)[number % len(JOBS)]
        text, files, told, assignments = JOBS[label].encode(), dict(self.files), "none", []
        command = not self.whole and random.random() < SHARE_OF_COMMANDS
        if not self.whole:
            draw = random.random()
            kernel = next((name for name in KERNEL_FILES if name.encode() in text), None)
            if kernel and draw < 0.4:
                files[kernel], told = mutate(files[kernel], random, OF_BYTES)
                told = f"{kernel}: {told}"
            elif draw < 0.2:
                assignments, told = _assignments(random)
            elif draw < 0.35:
                text, told = mutate(text, random, OF_BYTES)
            else:
                text, told = _mutate_job(text.decode(), random)
        for name, data in files.items():
            (folder / "in" / name).write_bytes(data)
        (folder / "in" / "folder").mkdir()
        os.mkfifo(folder / "in" / "pipe")
        (folder / "in" / "job.yaml").write_bytes(text)
        return JobCase(label, told, text.decode("utf-8", "replace"), assignments, command)


def _assignments(random: Random) -> tuple[list[str], str]:
    """Choose what --set says; some of it is not UTF-8, as the system hands that over."""
    keys = (
        "stride",
        "input.path",
        "kernel.weights",
        "output.dtype",
        "compute.tile",
        "input",
        "x.y",
    )
    odd = ("=", "", "stride", "stride=\udcff", "\udcff=1", "a..b=1", ".=1", "stride==2", "\0=\0")
    found = []
    for _ in range(random.choice((1, 1, 2))):
        made = f"{random.choice(keys)}={random.choice(ODD_VALUES)}"
        found.append(random.choice(odd) if random.random() < 0.3 else made)
    return found, f"--set {ascii(found)[:200]}"


def _mutate_job(text: str, random: Random) -> tuple[bytes, str]:
    told = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        ways = (_odd_value, _odd_value, _odd_value, _drop, _misspell, _repeat, _move, _indent)
        text, how = random.choice(ways)(text, random)
        told.append(how)
    return text.encode("utf-8", "surrogatepass"), ", ".join(told)


_VALUE = re.compile(r"(?<=: )[^{}\n][^\n,}]*")
_KEY = re.compile(r"[A-Za-z_]+(?=:)")


def _odd_value(text: str, random: Random) -> tuple[str, str]:
    found = list(_VALUE.finditer(text))
    if not found:
        return text, "nothing"
    start, end = random.choice(found).span()
    odd = random.choice(ODD_VALUES)
    key = text[:start].rsplit(maxsplit=1)[-1]
    return text[:start] + odd + text[end:], f"{key} {odd[:40]}"


def _misspell(text: str, random: Random) -> tuple[str, str]:
    found = list(_KEY.finditer(text))
    if not found:
        return text, "nothing"
    start, end = random.choice(found).span()
    word = text[start:end]
    at = random.randrange(len(word))
    new = random.choice((word[:at] + word[at + 1 :], word.upper(), random.choice(KEYS)))
    return text[:start] + new + text[end:], f"{word} misspelt {new}"


def _drop(text: str, random: Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    gone = lines.pop(random.randrange(len(lines))) if lines else ""
    return "".join(lines), f"dropped {gone.strip()[:30]}"


def _repeat(text: str, random: Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text, "nothing"
    line = random.choice(lines)
    lines.insert(random.randrange(len(lines) + 1), line)
    return "".join(lines), f"repeated {line.strip()[:30]}"


def _move(text: str, random: Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text, "nothing"
    line = lines.pop(random.randrange(len(lines)))
    lines.insert(random.randrange(len(lines) + 1), line)
    return "".join(lines), f"moved {line.strip()[:30]}"


def _indent(text: str, random: Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text, "nothing"
    at = random.randrange(len(lines))
    lines[at] = random.choice((" ", "  ", "\t", "- ", "? ")) + lines[at]
    return "".join(lines), "indented"
