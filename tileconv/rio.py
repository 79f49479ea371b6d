"""``rio tileconv``: the same work for people who live in rasterio's command line.

The options that other rio commands have bear their names. Inputs go through
tileconv's own checks, not rio's, which open any path with any driver.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import click
from rasterio.rio import options

from tileconv.errors import TileconvError
from tileconv.files import convolve_raster

_CREATION_OPTIONS = {
    "compress": "compress",
    "predictor": "predictor",
    "zlevel": "level",
    "zstd_level": "level",
    "blockxsize": "blocksize",
    "blockysize": "blocksize",
}
"""GDAL's creation options and the keys of a job's ``output`` that say the same."""


def _failed(error: TileconvError) -> click.exceptions.Exit:
    """Tell tileconv's message, and return the exit with tileconv's code."""
    with contextlib.suppress(OSError):  # standard error takes nothing: the code tells as well
        click.echo(f"Error: {error}", err=True)
    return click.exceptions.Exit(error.exit_code)


def _numbers(text: str) -> int | list[int]:
    """Read ``4`` or ``4,8``: rows first."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a whole number, nor several with commas"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _value(text: str) -> Any:
    """Read a number, several with commas, or a word."""
    parts = [_number(part) for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _argument(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE`` of a kernel."""
    name, separator, value = text.partition("=")
    if not separator:
        raise click.BadParameter(f"{text!r}: write NAME=VALUE, like size=9")
    return name.strip(), _value(value)


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


@click.command(short_help="Strided convolution.")
@click.argument("files", nargs=-1, required=True, metavar="INPUT... OUTPUT")
@options.output_opt
@click.option("--kernel", metavar="NAME", help="A kernel by name; `tileconv kernels` lists them.")
@click.option("--kernel-file", metavar="FILE", help="Weights from a file: .npy, .npz:KEY or .csv.")
@click.option(
    "--arg",
    "arguments",
    type=_argument,
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of the kernel by name, like size=9 or sigma=2.",
)
@click.option(
    "--stride", type=_numbers, default="1", metavar="N", help="Pixels between fields, n or y,x."
)
@click.option(
    "--dilation", type=_numbers, default="1", metavar="N", help="Pixels between taps, n or y,x."
)
@click.option(
    "--padding",
    type=_value,
    default="valid",
    metavar="WORD|N",
    help="valid, same, n, or y,x.  [default: valid]",
)
@click.option("--padding-mode", default="constant", help="A mode of numpy.pad, or missing.")
@click.option("--missing", default="propagate", help="propagate, skip, fill or renormalize.")
@click.option("--flip", is_flag=True, help="Turn the kernel: true convolution.")
@click.option("--mosaic", is_flag=True, help="Read many aligned INPUTs as one raster.")
@options.bidx_mult_opt
@options.dtype_opt
@options.nodata_opt
@options.creation_options
@options.overwrite_opt
def tileconv(
    files: tuple[str, ...],
    output: str | None,
    kernel: str | None,
    kernel_file: str | None,
    arguments: tuple[tuple[str, Any], ...],
    mosaic: bool,
    bidx: tuple[int, ...],
    dtype: str | None,
    nodata: float | None,
    creation_options: dict[str, str],
    overwrite: bool,
    **sampling: Any,
) -> None:
    """Convolve INPUT with a kernel, sampled with a stride, into OUTPUT.

    \b
        rio tileconv in.tif out.tif --kernel gaussian --arg size=9 --stride 4
        rio tileconv in.tif out.tif --kernel-file sobel.csv -b 3 -t int16
        rio tileconv scenes/*.tif out.tif --mosaic --kernel box

    Memory is bounded, blocks that no field touches are not read, and OUTPUT is
    complete and checked, or absent. A job in YAML says more: see tileconv --help.
    """  # noqa: D301 - click wants the backspace itself
    *inputs, target = [*files, output] if output else files
    if not inputs or (len(inputs) > 1 and not mosaic):
        raise click.UsageError(
            f"give one INPUT and one OUTPUT, or many with --mosaic; got {len(inputs)} inputs"
        )
    forms = {"name": kernel, "file": kernel_file}
    given: dict[str, Any] = {key: value for key, value in forms.items() if value is not None}
    if len(given) != 1:
        raise click.UsageError("give exactly one of --kernel and --kernel-file")
    chosen: dict[str, Any] = {**sampling, **_output_keys(creation_options)}
    if dtype is not None:
        chosen["dtype"] = {"ubyte": "uint8"}.get(dtype, dtype)
    if nodata is not None:
        chosen["nodata"] = nodata if math.isnan(nodata) else _whole(nodata)
    weights = given | dict(arguments)
    source = [*inputs] if mosaic else inputs[0]
    chosen["mosaic"] = mosaic
    try:
        report = convolve_raster(
            source, target, weights, bands=bidx or None, overwrite=overwrite, **chosen
        )
    except TileconvError as error:
        raise _failed(error) from error
    for failure in getattr(report, "failures", ()):  # INPUT was a glob in quotes
        raise _failed(failure.error)


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _output_keys(creation_options: dict[str, str]) -> dict[str, Any]:
    """Return creation options as keys of a job's output; what else there is tileconv decides."""
    keys: dict[str, Any] = {}
    for name, text in creation_options.items():
        if name == "tiled" and text in ("yes", "true", "on", "1"):
            continue
        key = _CREATION_OPTIONS.get(name)
        if key is None:
            raise click.BadParameter(
                f"{name.upper()}={text}: tileconv takes "
                f"{', '.join(map(str.upper, _CREATION_OPTIONS))} and TILED=YES, "
                "and decides the rest itself",
                param_hint="--co",
            )
        value = _number(text)
        if keys.setdefault(key, value) != value:
            raise click.BadParameter(
                f"{name.upper()}={text}: differs from {keys[key]}; blocks are square, and a file "
                "has one level",
                param_hint="--co",
            )
    return keys
