"""Jobs beyond one kernel: by name, on the ground, from files, banks, missing data."""

import inspect

import numpy as np
import pytest
import rasterio
import yaml
from click.testing import CliRunner
from conftest import read
from test_files import job_for

import tileconv
from tileconv import ConfigError, ConvolutionError, kernels
from tileconv.cli import main


def load(tmp_path, kernel, **keys):
    """Load a job written as YAML, so that messages carry lines."""
    job = {"input": {"path": "in.tif"}, "kernel": kernel, **keys, "output": {"path": "out.tif"}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return tileconv.load_job(path)


@pytest.mark.parametrize("name", kernels.BY_NAME)
def test_every_named_kernel_can_be_asked_for(name, tmp_path):
    weights = kernels.BY_NAME[name]()
    stride = {"stride": 2} if name == "lanczos" else {}
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(
        load(tmp_path, {"name": name}, **stride).operator.weights, weights
    )


SUMS = {
    1: "box gaussian circle annulus sharpen unsharp emboss lanczos",
    0: "sobel_x sobel_y prewitt_x prewitt_y scharr_x scharr_y laplacian log",
}


@pytest.mark.parametrize(("total", "names"), SUMS.items())
def test_kernels_sum_to_what_they_say(total, names):
    for name in names.split():
        assert kernels.BY_NAME[name]().sum() == pytest.approx(total, abs=1e-12), name


@pytest.mark.parametrize(("name", "gain"), [("sobel", 8), ("prewitt", 6), ("scharr", 32)])
def test_derivatives_have_the_gain_they_say(name, gain):
    y, x = np.mgrid[0:5.0, 0:6.0]
    for axis, slope in (("x", x), ("y", y)):
        out = tileconv.convolve(slope, kernels.BY_NAME[f"{name}_{axis}"]())
        np.testing.assert_allclose(out, gain)


def test_laplacians_find_curvature():
    y, x = np.mgrid[0:40.0, 0:40.0]
    np.testing.assert_allclose(tileconv.convolve(x**2 + 3 * y**2, kernels.laplacian()), 8)
    bowl = tileconv.convolve(x**2 + 3 * y**2, kernels.log(size=25, sigma=2))
    np.testing.assert_allclose(bowl, 8, rtol=1e-3)


@pytest.mark.parametrize("nan", ["nan", ".nan", "NaN"])
@pytest.mark.parametrize(
    ("given", "modes"),
    [
        ("constant", ("missing", "missing")),
        ("[edge, constant]", ("edge", "missing")),
        ("[wrap, edge]", ("wrap", "edge")),
    ],
)
def test_padding_of_a_job(tmp_path, make_raster, rng, nan, given, modes):
    source = make_raster(rng.random((1, 20, 30), "float32"))
    (tmp_path / "job.yaml").write_text(
        f"input: {{path: {source}}}\nkernel: {{weights: [[1, 2, 1], [0, 1, 3]]}}\n"
        f"padding: 2\npadding_mode: {given}\npadding_value: {nan}\noutput: {{path: out.tif}}\n"
    )
    job = tileconv.load_job(tmp_path / "job.yaml")
    assert job.operator.padding_mode == modes
    tileconv.run(job)
    expected = tileconv.convolve(
        read(source), [[1, 2, 1], [0, 1, 3]], padding=2, padding_mode=modes
    )
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), expected)


def test_a_wrong_mode_is_told_by_its_own_key(tmp_path):
    with pytest.raises(ConfigError, match=r"line \d+: padding_mode: must be one of .* got 'blue'"):
        load(tmp_path, {"name": "box"}, padding=1, padding_mode="blue")


def test_lanczos_keeps_blocks_where_they_are(tmp_path):
    for stride in (2, 3, 4, 5):
        job = load(tmp_path, {"name": "lanczos"}, stride=stride, padding="same")
        geometry = job.operator.geometry((stride * 20, stride * 20))
        assert (geometry.y.shift, geometry.out_shape) == (0, (20, 20))
        wave = np.cos(np.arange(stride * 20) * np.pi * 0.9)[None]  # above half the new rate
        row = kernels.lanczos(stride).sum(axis=0, keepdims=True)
        assert np.abs(tileconv.convolve(wave, row, stride=(1, stride))).max() < 0.1


def test_sizes_on_the_ground_follow_the_pixel(make_raster, tmp_path, rng):
    array = rng.normal(size=(60, 60))
    transform = rasterio.Affine(30, 0, 0, 0, -15, 0)  # pixels 30 m wide, 15 m high
    source = make_raster(array, transform=transform)
    keys = {"kernel": {"name": "gaussian", "size": "90 m", "sigma": "0.03 km"}}
    job = job_for(source, tmp_path / "o.tif")
    job = tileconv.load_job(
        {"input": {"path": str(source)}, **keys, "output": {"path": str(tmp_path / "o.tif")}}
    )
    plan = tileconv.plan(job)
    expected = kernels.gaussian((6, 3), sigma=(2.0, 1.0))
    np.testing.assert_allclose(plan.operator.weights, expected, rtol=1e-12)
    feet = make_raster(array, "feet.tif", transform=transform, crs="EPSG:2263")  # US survey feet
    plan = tileconv.plan(
        tileconv.load_job(
            {
                "input": {"path": str(feet)},
                "kernel": {"name": "box", "size": "90 ft"},
                "output": {"path": str(tmp_path / "o.tif")},
            }
        )
    )
    assert plan.operator.kernel_shape == (6, 3)
    keys["kernel"]["size"] = f"{'9' * 400} m"
    with pytest.raises(ConfigError, match="size: 9+ m is more than a number can tell"):
        tileconv.plan(
            tileconv.load_job({"input": {"path": str(source)}, **keys, "output": {"path": "o.tif"}})
        )
    keys["kernel"]["size"] = "90 m"
    degrees = make_raster(array, "degrees.tif", crs="EPSG:4326")
    with pytest.raises(ConfigError, match="projected coordinate system; give pixels"):
        tileconv.plan(
            tileconv.load_job(
                {"input": {"path": str(degrees)}, **keys, "output": {"path": "o.tif"}}
            )
        )


FILES = {
    ".npy": np.save,
    ".csv": lambda path, w: np.savetxt(path, w, delimiter=","),
    ".npz:weights": lambda path, w: np.savez(path, weights=w, other=w + 1),
}


@pytest.mark.parametrize("kind", FILES)
def test_kernels_come_from_files(kind, tmp_path, rng):
    weights = rng.normal(size=(3, 5))
    suffix, _, key = kind.partition(":")
    FILES[kind](tmp_path / f"k{suffix}", weights)
    file = f"k{suffix}:{key}" if key else f"k{suffix}"
    np.testing.assert_allclose(load(tmp_path, {"file": file}).operator.weights, weights)


def test_kernel_files_are_not_trusted(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "words.csv").write_text("a,b\n")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    )
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    cases = {
        "objects.npy": "pickle",
        "pickle.npy": "cannot be read as a kernel",
        "words.csv": "cannot be read as a kernel",
        "huge.npy": "promises more numbers",
        "two.npz": "holds a, b; write one as two.npz:KEY",
        "two.npz:c": "holds a, b",
        "none.npy": "no such file",
        "kernel.txt": r"\.npy, \.npz:key or \.csv",
    }
    for file, message in cases.items():
        with pytest.raises(ConfigError, match=message) as raised:
            load(tmp_path, {"file": file})
        assert "line" in str(raised.value)


WRONG = {
    "two sources": ({"name": "box", "weights": [[1]]}, {}, "exactly one of weights, name and file"),
    "unknown": ({"name": "boxes"}, {}, "there is no kernel named 'boxes'"),
    "argument": ({"name": "sobel_x", "size": 3}, {}, "sobel_x does not take size"),
    "argument of weights": ({"weights": [[1]], "size": 3}, {}, "size go with a kernel by name"),
    "unit": ({"name": "box", "size": "3 yards"}, {}, None),
    "value": ({"name": "gaussian", "sigma": -1}, {}, "sigma must be a number of pixels, 1e-06 to"),
    "policy": ({"name": "sobel_x"}, {"missing": "renormalize"}, "negative weights"),
    "word": ({"name": "box"}, {"missing": "interpolate"}, "missing: must be one of"),
    "fraction": (
        {"name": "box"},
        {"min_valid_fraction": 2},
        "min_valid_fraction: must be a number",
    ),
    "groups": ({"name": "box"}, {"groups": 2}, "groups go with weights"),
    "bias": ({"name": "box"}, {"bias": [1]}, "bias goes with weights"),
}


@pytest.mark.parametrize(("kernel", "keys", "message"), WRONG.values(), ids=WRONG)
def test_wrong_kernels_are_named_with_their_line(kernel, keys, message, tmp_path, make_raster):
    make_raster(np.ones((9, 9)))
    with pytest.raises(ConfigError, match=message) as raised:
        tileconv.plan(load(tmp_path, kernel, **keys))
    if message is not None:
        assert "line" in str(raised.value)


def test_a_bank_of_a_file_names_its_bands(make_raster, tmp_path, rng):
    array = rng.normal(size=(2, 30, 40)).astype("float32")
    source = make_raster(array, block=(16, 16))
    with rasterio.open(source, "r+") as dataset:
        dataset.set_band_description(1, "red")
    bank = rng.normal(size=(3, 3, 3))
    report = tileconv.run(
        job_for(source, tmp_path / "o.tif", **{"kernel.weights": bank, "stride": 2})
    )
    assert report.out_shape == (6, 14, 19)
    expected = tileconv.convolve(array, bank, stride=2)
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)
    with rasterio.open(tmp_path / "o.tif") as made:
        assert made.descriptions == (
            *(f"kernel {k}:red" for k in (1, 2, 3)),
            *(f"kernel {k}:band 2" for k in (1, 2, 3)),
        )


def test_sums_over_bands_with_groups_and_bias(make_raster, tmp_path, rng):
    array = rng.integers(0, 999, (4, 30, 40)).astype("uint16")
    source = make_raster(array, block=(16, 16), interleave="pixel")
    weights = rng.normal(size=(4, 2, 3, 3))
    keys = {"kernel.weights": weights, "groups": 2, "bias": [1.0, 2.0, 3.0, 4.0], "padding": "same"}
    tileconv.run(job_for(source, tmp_path / "o.tif", **keys, **{"output.quicklook": True}))
    expected = tileconv.convolve(array, weights, groups=2, bias=[1, 2, 3, 4], padding="same")
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)
    with pytest.raises(ConvolutionError, match="for 4 bands.*there are 3"):
        tileconv.plan(job_for(source, tmp_path / "p.tif", **keys, **{"input.bands": [1, 2, 3]}))


@pytest.mark.parametrize("policy", ["propagate", "skip", "fill", "renormalize"])
def test_policies_and_the_valid_fraction_of_files(make_raster, tmp_path, rng, policy):
    array = rng.integers(1, 99, (2, 70, 60)).astype("uint8")
    array[rng.random(array.shape) < 0.2] = 0
    source = make_raster(array, block=(32, 32), nodata=0)
    kernel = rng.random((3, 3))
    options = {"missing": policy, "fill_value": 3, "min_valid_fraction": 0.4, "stride": 2}
    keys = {"kernel.weights": kernel, "output.valid_fraction": True, "compute.tile": 16, **options}
    report = tileconv.run(job_for(source, tmp_path / "o.tif", **keys))
    assert report.out_shape == (3, 34, 29)
    out = read(tmp_path / "o.tif")
    expected = tileconv.convolve(array, kernel, nodata=0, **options)
    assert out[:2].tobytes() == expected.tobytes()
    shares = tileconv.convolve((array != 0).astype("float64"), kernel / kernel.sum(), stride=2)
    np.testing.assert_allclose(out[2], shares.min(axis=0), atol=1e-6)
    with rasterio.open(tmp_path / "o.tif") as made:
        assert made.descriptions[-1] == "valid fraction"


def test_a_share_needs_a_float_output(make_raster, tmp_path):
    source = make_raster(np.ones((9, 9), "uint8"))
    keys = {"output.valid_fraction": True, "output.dtype": "uint8"}
    with pytest.raises(ConfigError, match="share needs a float"):
        tileconv.plan(job_for(source, tmp_path / "o.tif", **keys))


def test_the_kernels_command_lists_and_shows():
    listed = CliRunner().invoke(main, ["kernels"])
    assert listed.exit_code == 0
    for name in kernels.BY_NAME:
        assert f"{name}(" in listed.stdout
        shown = CliRunner().invoke(main, ["kernels", name])
        assert shown.exit_code == 0
        weights = kernels.BY_NAME[name]()
        assert f"{weights.shape[0]} x {weights.shape[1]} pixels" in shown.stdout
    wrong = CliRunner().invoke(main, ["kernels", "boxes"])
    assert wrong.exit_code == 2
    assert "there is no kernel named 'boxes'" in wrong.stderr


def test_every_named_kernel_has_its_arguments_in_jobs():
    from tileconv.jobs.config import KernelConfig

    for make in kernels.BY_NAME.values():
        assert set(inspect.signature(make).parameters) <= set(KernelConfig.model_fields)
