"""Rasters on servers: ranges of needed blocks only, few requests, errors with URL and cause."""

import json

import numpy as np
import pytest
import rasterio
import yaml
from click.testing import CliRunner
from conftest import read
from servers import http_server, s3_server

import tileconv
from tileconv import ConfigError, InputError
from tileconv.cli import main

KERNEL = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
SIDE, BLOCK = 2048, 128


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(7).integers(0, 60000, (1, SIDE, SIDE)).astype("uint16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pixels):
    """A folder with a raster of noise, which does not compress."""
    folder = tmp_path_factory.mktemp("served")
    with rasterio.open(
        folder / "noise.tif",
        "w",
        driver="GTiff",
        count=1,
        height=SIDE,
        width=SIDE,
        dtype="uint16",
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
        crs="EPSG:32621",
        transform=rasterio.Affine(30, 0, 700000, 0, -30, -2800000),
    ) as dataset:
        dataset.write(pixels)
    return folder


@pytest.fixture
def http(folder):
    with http_server(folder) as served:
        yield served


@pytest.fixture(scope="module")
def s3_store(folder):
    pytest.importorskip("moto")
    stored = (folder / "noise.tif").read_bytes()
    with s3_server({"scenes/2026/noise.tif": stored}) as served:
        yield served


@pytest.fixture
def s3(s3_store, monkeypatch, tmp_path):
    """The S3 server, and an environment as its users have it."""
    address, log = s3_store
    log.clear()
    for key, value in {
        "AWS_S3_ENDPOINT": address,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, value)
    return log


def convolve(source, target, **options):
    return tileconv.convolve_raster(source, target, KERNEL, remote=True, **options)


def plan_of(source, **keys):
    job = {"input": {"path": source, "remote": True}, "kernel": {"weights": KERNEL}, **keys}
    return tileconv.plan(tileconv.load_job({**job, "output": {"path": "o.tif"}}))


def fetched_as_planned(log, folder, plan, report):
    """Check that hardly more is fetched than the header and the blocks that are needed."""
    whole = (folder / "noise.tif").stat().st_size
    assert report.blocks_decoded == plan.blocks_needed == 64
    share = plan.blocks_needed / plan.layout.blocks_total
    assert share == 0.25
    # Single blocks are fetched in pieces of 16 KiB, so about half a piece too much at both ends.
    ceiling = plan.bytes_to_read + 64 * 2 * 16384 + 8 * 32768
    assert plan.bytes_to_read == pytest.approx(share * whole, rel=0.02)
    assert share * whole < log.bytes < ceiling < 0.75 * whole
    assert log.requests <= 64 + 12


def test_a_stride_above_the_block_fetches_a_fraction(http, folder, pixels, tmp_path):
    address, log, _ = http
    source, target = f"{address}/noise.tif", tmp_path / "o.tif"
    plan = plan_of(source, stride=2 * BLOCK)
    log.clear()
    report = convolve(source, target, stride=2 * BLOCK)
    np.testing.assert_array_equal(read(target), tileconv.convolve(pixels, KERNEL, stride=2 * BLOCK))
    fetched_as_planned(log, folder, plan, report)
    assert {entry[1] for entry in log.entries} == {"/noise.tif"}  # no listing, no sidecars
    assert report.source == source


def test_s3_fetches_a_fraction(s3, folder, pixels, tmp_path):
    source, target = "s3://scenes/2026/noise.tif", tmp_path / "{parent}_{stem}.tif"
    plan = plan_of(source, stride=2 * BLOCK)
    s3.clear()
    report = convolve(source, target, stride=2 * BLOCK)
    expected = tileconv.convolve(pixels, KERNEL, stride=2 * BLOCK)
    np.testing.assert_array_equal(read(tmp_path / "2026_noise.tif"), expected)
    fetched_as_planned(s3, folder, plan, report)
    assert {entry[1] for entry in s3.entries} == {"/scenes/2026/noise.tif?"}  # no listing


def test_neighbouring_blocks_are_fetched_together(http, folder, pixels, tmp_path):
    address, log, _ = http
    target = tmp_path / "o.tif"
    report = convolve(f"{address}/noise.tif", target, padding="same")
    expected = tileconv.convolve(pixels, KERNEL, padding="same")
    assert read(target).tobytes() == expected.tobytes()
    whole = (folder / "noise.tif").stat().st_size
    assert report.blocks_decoded == 256
    assert whole < log.bytes < 1.25 * whole
    assert log.requests < 256 / 2


def test_a_plan_reads_the_header_in_few_requests(http, folder):
    address, log, _ = http
    plan = plan_of(f"{address}/noise.tif?token=secret", stride=4)
    assert plan.layout.shape == (SIDE, SIDE)
    assert log.requests <= 4
    assert log.bytes <= 65536
    assert f"{address}/noise.tif?..." in str(plan)
    assert "secret" not in str(plan) + plan.to_json()


def test_a_plan_of_s3(s3):
    assert plan_of("s3://scenes/2026/noise.tif").layout.shape == (SIDE, SIDE)
    assert s3.requests <= 4
    assert s3.bytes <= 65536


def test_what_changes_on_the_server_is_seen_by_the_next_run(make_raster, tmp_path, rng):
    arrays = rng.integers(0, 99, (2, 1, 40, 40)).astype("uint8")
    with http_server(tmp_path) as (address, _, _):
        for array in arrays:
            make_raster(array, "scene.tif")
            convolve(f"{address}/scene.tif", tmp_path / "o.tif", overwrite=True)
            np.testing.assert_array_equal(
                read(tmp_path / "o.tif"), tileconv.convolve(array, KERNEL)
            )


def test_batches_and_mosaics_of_urls(make_raster, tmp_path, rng):
    array = rng.integers(0, 99, (1, 40, 60)).astype("uint8")
    grid = rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
    make_raster(array[..., :25], "west.tif", transform=grid)
    make_raster(array[..., 25:], "east.tif", transform=grid @ grid.translation(25, 0))
    with http_server(tmp_path) as (address, _, _):
        urls = [f"{address}/west.tif", f"{address}/east.tif"]
        convolve(urls, tmp_path / "whole.tif", mosaic=True, workers=3, tile=16)
        np.testing.assert_array_equal(
            read(tmp_path / "whole.tif"), tileconv.convolve(array, KERNEL)
        )
        report = convolve([*urls, f"{address}/none.tif"], tmp_path / "out" / "{stem}.tif")
    assert [failure.source for failure in report.failures] == [f"{address}/none.tif"]
    assert report.exit_code == 3
    np.testing.assert_array_equal(
        read(tmp_path / "out" / "west.tif"), tileconv.convolve(array[..., :25], KERNEL)
    )


# ---- What goes wrong


def test_a_short_failure_is_tried_again(http, pixels, tmp_path):
    address, log, failures = http
    failures += [503, 503]
    convolve(f"{address}/noise.tif", tmp_path / "o.tif", stride=2 * BLOCK)
    assert not failures
    assert [entry[4] for entry in log.entries].count(503) == 2
    np.testing.assert_array_equal(
        read(tmp_path / "o.tif"), tileconv.convolve(pixels, KERNEL, stride=2 * BLOCK)
    )


def test_a_lasting_failure_names_block_and_cause(http, tmp_path):
    address, _, failures = http

    def fail(done, total):
        failures[:] = [403] * 1000  # a token has expired, say

    with pytest.raises(InputError, match=r"noise\.tif: block \(.*the server answers 403") as raised:
        convolve(f"{address}/noise.tif", tmp_path / "o.tif", progress=fail, tile=64, workers=1)
    assert raised.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_errors_name_url_and_cause(http, tmp_path):
    address, _, _ = http
    for url, words in {
        f"{address}/none.tif?token=secret": "404",
        "http://127.0.0.1:9/x.tif": "connect",
    }.items():
        with pytest.raises(InputError) as raised:
            convolve(url, tmp_path / "o.tif")
        assert str(raised.value).startswith(f"{url.partition('?')[0]}")
        assert words in str(raised.value)
        assert "secret" not in str(raised.value)
        assert raised.value.exit_code == 3


def test_a_page_that_is_no_raster(tmp_path):
    (tmp_path / "page.tif").write_text("<html>not here</html>" * 9)
    with http_server(tmp_path) as (address, _, _), pytest.raises(InputError, match="page.tif"):
        convolve(f"{address}/page.tif", tmp_path / "o.tif")


def test_s3_without_credentials(s3, monkeypatch, tmp_path):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    with pytest.raises(InputError, match="s3://scenes/2026/noise.tif: .*AWS_SECRET_ACCESS_KEY"):
        convolve("s3://scenes/2026/noise.tif", tmp_path / "o.tif")
    assert s3.requests == 0


def test_s3_of_what_is_not_there(s3, tmp_path):
    with pytest.raises(InputError, match="s3://scenes/none.tif: cannot be read: .+"):
        convolve("s3://scenes/none.tif", tmp_path / "o.tif")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("http://example.org/a.tif", "http:// is read from this machine only"),
        ("http://127.0.0.1.example.org/a.tif", "http:// is read from this machine only"),
        ("ftp://example.org/a.tif", "remote inputs are https:// or s3://, not ftp://"),
        ("file:///etc/passwd", "not the URL of a file"),
        ("https://example.org", "not the URL of a file"),
        ("https:///a.tif", "not the URL of a file"),
        ("https://[::1/a.tif", "not a valid URL"),
        ("https://example.org/a b.tif", "not the URL of a file"),
    ],
)
def test_other_urls_are_refused_unvisited(path, words, tmp_path):
    with pytest.raises(ConfigError, match=r"input\.path") as raised:
        convolve(path, tmp_path / "o.tif")
    assert words in str(raised.value)


@pytest.mark.parametrize("path", ["/vsicurl/http://127.0.0.1:9/a.tif", "/vsis3/bucket/a.tif"])
def test_names_of_gdals_own_are_no_urls(path, tmp_path):
    with pytest.raises(InputError, match="only files on disk are read"):
        convolve(path, tmp_path / "o.tif")


def test_remote_has_to_be_allowed(http, tmp_path, monkeypatch):
    address, log, _ = http
    monkeypatch.chdir(tmp_path)
    job = {
        "input": {"path": f"{address}/noise.tif"},
        "kernel": {"weights": KERNEL.tolist()},
        "stride": 2 * BLOCK,
        "output": {"path": "{stem}_s.tif"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for command in ("plan", "run"):
        result = CliRunner().invoke(main, [command, "job.yaml"])
        assert result.exit_code == 3
        assert "with input.remote: true" in result.stderr
    assert log.requests == 0
    result = CliRunner().invoke(main, ["run", "job.yaml", "--set", "input.remote=true", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["blocks_decoded"] == 64
    target = "output.path=http://127.0.0.1:9/o.tif"
    result = CliRunner().invoke(
        main, ["run", "job.yaml", "--set", "input.remote=true", "--set", target]
    )
    assert (result.exit_code, "only files on disk are written" in result.stderr) == (2, True)
