"""The job from Python and from rio: one to one with YAML."""

from importlib.metadata import entry_points

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv import ConfigError, InputError, OutputExistsError
from tileconv.files import RasterOptions
from tileconv.jobs.config import ComputeConfig, InputConfig, JobConfig, OutputConfig, option_places
from tileconv.rio import tileconv as rio_command

KERNEL = np.array([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])


@pytest.fixture
def source(make_raster, rng):
    return make_raster(rng.integers(0, 999, (3, 60, 50)).astype("uint16"), block=(16, 32))


# ---- Python


def test_every_key_of_yaml_is_an_argument():
    arguments = {*RasterOptions.__annotations__}
    keys = {*JobConfig.model_fields} - {"input", "kernel", "focal", "output", "compute"}
    for section in (InputConfig, OutputConfig, ComputeConfig):
        keys |= {*section.model_fields} - {"path", "bands", "overwrite"}
    assert arguments == keys | {"flip", "normalize"} == set(option_places())


def test_one_call_does_what_the_job_does(source, tmp_path):
    options = {"stride": (2, 3), "padding": "same", "padding_mode": "edge", "flip": True}
    report = tileconv.convolve_raster(
        source,
        tmp_path / "{stem}_a.tif",
        KERNEL,
        bands=(3, 1),
        dtype=np.int32,
        nodata=-1,
        **options,
    )
    keys = {key: value for key, value in options.items() if key != "flip"}
    job = {
        "input": {"path": str(source), "bands": [3, 1]},
        "kernel": {"weights": KERNEL.tolist(), "flip": True},
        **keys,
        "output": {"path": str(tmp_path / "b.tif"), "dtype": "int32", "nodata": -1},
    }
    tileconv.run(tileconv.load_job(job))
    assert (tmp_path / "in_a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert report.target == str(tmp_path / "in_a.tif")
    expected = tileconv.convolve(read(source)[[2, 0]], KERNEL, dtype="int32", **options)
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), expected)


def test_kernels_by_name_and_by_keys(source, tmp_path):
    for kernel in ("box", {"name": "box"}, {"name": "box", "size": 3}, tileconv.kernels.box()):
        tileconv.convolve_raster(source, tmp_path / "o.tif", kernel, stride=5, overwrite=True)
        expected = tileconv.convolve(read(source), tileconv.kernels.box(), stride=5)
        np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)


def test_options_reach_their_sections(source, tmp_path):
    target = tmp_path / "o.tif"
    tileconv.convolve_raster(
        source, target, "box", compress="lzw", blocksize=32, tile=64, workers=1, quicklook=True
    )
    with rasterio.open(target) as made:
        assert made.profile["compress"] == "lzw"
        assert made.block_shapes[0] == (32, 32)
    assert (tmp_path / "o_quicklook.png").exists()


def test_many_sources_give_a_batch_report(source, make_raster, tmp_path, rng):
    other = make_raster(rng.normal(size=(9, 9)), "other.tif")
    seen = []
    report = tileconv.convolve_raster(
        [source, other, tmp_path / "none.tif"],
        tmp_path / "out" / "{stem}.tif",
        KERNEL,
        progress=lambda *told: seen.append(told),
    )
    assert (len(report.done), len(report.failures), report.exit_code) == (2, 1, 3)
    assert seen[-1] == (3, 3)


def test_mistakes_are_named(source, tmp_path):
    target = tmp_path / "o.tif"
    with pytest.raises(ConfigError, match="strid: unknown key; did you mean `stride`"):
        tileconv.convolve_raster(source, target, KERNEL, strid=2)
    with pytest.raises(ConfigError, match="output: give its keys by their own names"):
        tileconv.convolve_raster(source, target, KERNEL, output={"path": "/etc/x"})
    with pytest.raises(ConfigError, match="memory_limit"):
        tileconv.convolve_raster(source, target, KERNEL, memory_limit="much")
    with pytest.raises(tileconv.ConvolutionError, match="not one that numpy knows"):
        tileconv.convolve_raster(source, target, KERNEL, dtype=object())
    with pytest.raises(ConfigError, match="no kernel named 'boxes'"):
        tileconv.convolve_raster(source, target, "boxes")
    with pytest.raises(InputError, match="no such file"):
        tileconv.convolve_raster(tmp_path / "none.tif", target, KERNEL)
    assert not target.exists()
    tileconv.convolve_raster(source, target, KERNEL)
    with pytest.raises(OutputExistsError):
        tileconv.convolve_raster(source, target, KERNEL)


# ---- rio


def rio(*arguments):
    """Run ``rio tileconv`` as rio does, whether or not the package is installed."""
    from rasterio.rio.main import main_group

    if "tileconv" not in main_group.commands:
        main_group.add_command(rio_command)
    return CliRunner().invoke(main_group, ["tileconv", *map(str, arguments)])


def test_rio_finds_the_plug_in():
    found = [e for e in entry_points(group="rasterio.rio_plugins") if e.name == "tileconv"]
    if not found:
        pytest.skip("tileconv is not installed, only on the path")
    assert found[0].load() is rio_command


def test_rio_convolves(source, tmp_path):
    target = tmp_path / "o.tif"
    kernel = tmp_path / "k.csv"
    np.savetxt(kernel, KERNEL, delimiter=",")
    options = ["--stride", "2,3", "--padding", "1,2", "--padding-mode", "reflect", "-b", 3, "-b", 1]
    result = rio(source, target, "--kernel-file", kernel, *options, "-t", "int16", "--nodata", "-1")
    assert result.exit_code == 0, result.output
    expected = tileconv.convolve(
        read(source)[[2, 0]],
        KERNEL,
        stride=(2, 3),
        padding=(1, 2),
        padding_mode="reflect",
        dtype="int16",
    )
    np.testing.assert_array_equal(read(target), expected)
    with rasterio.open(target) as made:
        assert made.nodata == -1


def test_rio_kernels_by_name_take_arguments(source, tmp_path):
    target = tmp_path / "o.tif"
    options = ["--kernel", "gaussian", "--arg", "size=5,7", "--arg", "sigma=1.5"]
    result = rio(source, "-o", target, *options)
    assert result.exit_code == 0, result.output
    expected = tileconv.convolve(read(source), tileconv.kernels.gaussian((5, 7), 1.5))
    np.testing.assert_array_equal(read(target), expected)


def test_rio_creation_options(source, tmp_path):
    target = tmp_path / "o.tif"
    co = ["--co", "COMPRESS=ZSTD", "--co", "ZSTD_LEVEL=5", "--co", "tiled=yes"]
    co += ["--co", "BLOCKXSIZE=64", "--co", "BLOCKYSIZE=64"]
    assert rio(source, target, "--kernel", "box", *co).exit_code == 0
    with rasterio.open(target) as made:
        assert (made.profile["compress"], made.block_shapes[0]) == ("zstd", (64, 64))
    for wrong, words in {
        "NUM_THREADS=2": "decides the rest itself",
        "INTERLEAVE=PIXEL": "decides the rest itself",
        "BLOCKXSIZE=32": "blocks are square",
    }.items():
        result = rio(source, target, "--kernel", "box", "--overwrite", *co, "--co", wrong)
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_rio_mosaics(make_raster, tmp_path, rng):
    array = rng.integers(0, 99, (1, 30, 40)).astype("uint8")
    grid = rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
    scenes = [
        make_raster(array[..., :17], "a.tif", transform=grid),
        make_raster(array[..., 17:], "b.tif", transform=grid @ grid.translation(17, 0)),
    ]
    result = rio(*scenes, tmp_path / "o.tif", "--mosaic", "--kernel", "box")
    assert result.exit_code == 0, result.output
    expected = tileconv.convolve(array, tileconv.kernels.box())
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)


def test_rio_overwrites_when_told_to(source, tmp_path):
    target = tmp_path / "o.tif"
    assert rio(source, target, "--kernel", "box").exit_code == 0
    result = rio(source, target, "--kernel", "box")
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert rio(source, target, "--kernel", "box", "--overwrite").exit_code == 0


def test_rio_tells_what_is_wrong(source, tmp_path):
    target = tmp_path / "o.tif"
    (tmp_path / "text.tif").write_text("no raster")
    for arguments, code, words in (
        ([source], 2, "one INPUT and one OUTPUT"),
        ([source, source, target, "--kernel", "box"], 2, "one INPUT and one OUTPUT"),
        ([source, target], 2, "exactly one of --kernel and --kernel-file"),
        ([source, target, "--kernel", "boxes"], 2, "no kernel named 'boxes'"),
        ([source, target, "--kernel", "box", "--arg", "size"], 2, "write NAME=VALUE"),
        ([source, target, "--kernel", "box", "--stride", "0"], 2, "stride"),
        ([source, target, "--kernel", "box", "--stride", "x"], 2, "not a whole number"),
        ([tmp_path / "none.tif", target, "--kernel", "box"], 3, "no such file"),
        ([tmp_path / "text.tif", target, "--kernel", "box"], 3, "cannot be opened as GeoTIFF"),
        ([source, "/vsimem/o.tif", "--kernel", "box"], 2, "only files on disk are written"),
    ):
        result = rio(*arguments)
        assert (result.exit_code, words in result.output) == (code, True), result.output
    assert not target.exists()


def test_rio_helps(tmp_path):
    assert "rio tileconv in.tif out.tif" in rio("--help").output
