"""What is secret in a URL is seen nowhere: in errors, plans, reports, tags, files and logs."""

import json
import logging
import traceback

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from servers import http_server

import tileconv
from tileconv.cli import main
from tileconv.raster.remote import Remote
from tileconv.text import shown_url, without_secrets

SECRETS = ("USERxq7", "PASSwk9", "TOKENzj4", "FRAGpv3")
LETTERS = st.text("abcXYZ019-._~!$&()*+,;=:@/%?", min_size=0, max_size=9)


@st.composite
def urls(draw, letters=LETTERS):
    """A URL, with secrets at all places where there may be some, amid all sorts of letters."""
    around = [draw(letters) + secret + draw(letters) for secret in SECRETS]
    user, password, query, fragment = (text.replace("?", "").replace("#", "") for text in around)
    user, password = user.replace("/", "").replace(":", ""), password.replace("/", "")
    scheme = draw(st.sampled_from(["https", "http", "s3", "tls", "HTTPS", "gs", "ftp"]))
    host = draw(st.sampled_from(["example.org", "10.0.0.1:8080", "[::1]:80", "bucket"]))
    path = draw(st.sampled_from(["/a.tif", "/a@2x/b.tif", "/x/y z.tif".replace(" ", "%20"), ""]))
    before = draw(st.sampled_from([f"{user}:{password}@", f"{user}@", f":{password}@", ""]))
    after = draw(st.sampled_from([f"?{query}", f"?{query}#{fragment}", f"#{fragment}", ""]))
    return f"{scheme}://{before}{host}{path}{after}"


def clean(text):
    return not any(secret in text for secret in SECRETS)


@given(
    urls(), st.sampled_from(["{}", "'{}'", "x {} y", "/vsicurl/{}: no", '"{}",', "got '{}'; {}"])
)
def test_no_secret_survives(url, around):
    told = without_secrets(around.replace("{}", url))
    assert clean(told), told
    assert without_secrets(told) == told
    told = [shown_url(url), str(Remote(url)), repr(Remote(url)), str(tileconv.InputError(url))]
    assert all(map(clean, told))
    if "/a" in url:  # GDAL tells of it by what stands after the last slash
        assert clean(without_secrets(f"{url.rpartition('/')[2]}, band 1: no"))
    assert Remote(url).gdal_name.endswith(url.partition("://")[2])  # GDAL is given all of it


@given(urls(st.text(min_size=0, max_size=9)))
def test_of_a_url_that_is_none_either(url):
    assert clean(shown_url(url))
    job = {"input": {"path": url + " ", "remote": True}, "kernel": {"name": "box"}}
    with pytest.raises(tileconv.TileconvError) as caught:
        tileconv.load_job({**job, "output": {"path": "o.tif"}})
    assert clean(str(caught.value))


@given(st.text(max_size=40))
def test_texts_without_urls_stay(text):
    if ":/" not in text:
        assert without_secrets(text) == text


SECRET = f"{SECRETS[0]}:{SECRETS[1]}@"


@pytest.fixture
def served(tmp_path):
    """A server with a raster, a damaged one and a text, and the address with all secrets in it."""
    folder = tmp_path / "served"
    folder.mkdir()
    about = {"count": 1, "height": 300, "width": 300, "dtype": "uint16", "driver": "GTiff"}
    grid = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(folder / "good.tif", "w", **about, **grid, **tiles) as out:
        out.write(np.random.default_rng(0).integers(0, 999, (1, 300, 300), dtype="uint16"))
    whole = (folder / "good.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "text.tif").write_text("no raster")
    with http_server(folder) as (address, log, failures):
        yield (
            lambda name: f"{address.replace('//', f'//{SECRET}')}/{name}?{SECRETS[2]}#{SECRETS[3]}",
            log,
            failures,
        )


@pytest.mark.parametrize("name", ["good.tif", "cut.tif", "text.tif", "none.tif"])
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_run_tells_no_secret(served, tmp_path, monkeypatch, caplog, capfd, name, scheduler):
    address, log, _ = served
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    seen = []
    job = {"input": {"path": address(name), "remote": True}, "kernel": {"name": "box"}}
    job |= {"output": {"path": "out.tif", "report": True}, "compute": {"scheduler": scheduler}}
    try:
        loaded = tileconv.load_job(job)
        seen += [repr(loaded), str(loaded.source)]
        plan = tileconv.plan(loaded)
        seen += [str(plan), plan.to_json(), repr(plan)]
        report = tileconv.run(loaded)
        seen += [str(report), json.dumps(report.to_dict()), repr(report)]
        assert name == "good.tif"
    except tileconv.TileconvError as error:
        assert name != "good.tif"
        seen += [str(error), repr(error), "".join(traceback.format_exception(error))]
    for path in tmp_path.rglob("*"):
        if path.is_file() and "served" not in path.parts:
            seen.append(path.read_bytes().decode("latin-1"))
    seen += [record.getMessage() for record in caplog.records]
    seen += [*capfd.readouterr()]
    assert all(map(clean, seen)), [text for text in seen if not clean(text)]
    assert any("127.0.0.1" in text for text in seen)
    assert {entry[1].partition("?")[0] for entry in log.entries} <= {f"/{name}"}  # nothing beside


@pytest.mark.parametrize("command", ["run", "plan", "verify"])
@pytest.mark.parametrize("name", ["good.tif", "cut.tif", "none.tif"])
@pytest.mark.parametrize("remote", [True, False])
def test_the_command_line_tells_none(served, tmp_path, monkeypatch, command, name, remote):
    address, _, _ = served
    monkeypatch.chdir(tmp_path)
    text = json.dumps(
        {
            "input": {"path": address(name), "remote": remote},
            "kernel": {"name": "box"},
            "output": {"path": "out.tif"},
            "stride": 1,
        }
    )
    (tmp_path / "job.yaml").write_text(text)
    for more in ([], ["--json"], ["--set", f"stride={address(name)}"]):
        told = CliRunner().invoke(main, [command, "job.yaml", *more])
        assert clean(told.output), told.output
        assert told.exception is None or isinstance(told.exception, SystemExit)
