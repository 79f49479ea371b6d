"""What a run may put a file over: a file of the kind that it writes there, and nothing else."""

import os
import shutil
import socket
import stat
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv.cli import main
from tileconv.errors import OutputExistsError
from tileconv.raster.targets import HTML_PAGE, PNG, TIFF_FILE, VRT_FILE, OwnFiles, Target, put

PIXELS = np.arange(1, 41, dtype=np.uint8).reshape(5, 8)
VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="5"><VRTRasterBand dataType="Byte" band="1">'
    '<SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename></SimpleSource>'
    "</VRTRasterBand></VRTDataset>"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, make_raster):
    """A folder with a raster, in which the tests run."""
    monkeypatch.chdir(tmp_path)
    make_raster(PIXELS)
    return tmp_path


def write_job(source="in.tif", target="out.tif", kernel=None, **output):
    job = {
        "input": {"path": source},
        "kernel": kernel or {"weights": [[2]]},
        "output": {"path": target, "overwrite": True, **output},
    }
    Path("job.yaml").write_text(yaml.safe_dump(job))


def invoke(command="run"):
    return CliRunner().invoke(main, [command, "job.yaml"])


def everything():
    """What each path is, and its bytes where it is a file."""
    return {
        path: (os.lstat(path).st_mode, path.read_bytes() if path.is_file() else None)
        for path in Path().rglob("*")
    }


def refused(words, *commands):
    before = everything()
    for command in commands or ("run", "plan"):
        result = invoke(command)
        assert (result.exit_code, words in result.stderr) == (2, True), result.output
        assert everything() == before


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


SPECIAL = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
}


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("name", ["out.tif", "out_quicklook.png", "out.tif.json"])
def test_what_is_no_file_is_not_replaced(what, name):
    try:
        SPECIAL[what](name)
    except PermissionError:
        pytest.skip("only root makes devices")
    write_job(quicklook=True, report=True)
    refused(f"{name}: is {what}, so it is not replaced")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("out.tif", "TIFF file"),
        ("out_quicklook.png", "PNG"),
        ("out.tif.json", "report of tileconv's"),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(name, kind):
    write_job(quicklook=True, report=True)
    for content in (b"notes\n", b'{"name": "mine"}', b"\0" * 600, b"GIF89a"):
        Path(name).write_bytes(content)
        refused(f"{name}: is no {kind}, so it is not replaced")
    Path(name).write_bytes(b"")  # as mktemp leaves it: nothing is lost
    for _ in range(2):  # and what a run has written
        assert invoke().exit_code == 0
    np.testing.assert_array_equal(read("out.tif")[0], PIXELS * 2)
    assert {path.name for path in Path().iterdir()} == {
        "in.tif",
        "job.yaml",
        "out.tif",
        "out.tif.json",
        "out_quicklook.png",
    }


def test_a_link_beside_the_output_is_not_replaced():
    shutil.copy("in.tif", "other.png")
    Path("out_quicklook.png").symlink_to("other.png")
    write_job(quicklook=True)
    refused("out_quicklook.png: is a symbolic link")


OWN = {"job.yaml": "the job file", "kernel.npy": "the kernel file", "in.tif": "the input"}


@pytest.mark.parametrize("path", OWN)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_files_of_the_job_are_not_replaced(path, link):
    np.save("kernel.npy", np.ones((1, 1)))
    write_job(target="named.tif", kernel={"file": "kernel.npy"})
    link(path, "named.tif")
    refused(f"the output is {OWN[path]} itself")


def test_a_job_does_not_replace_itself():
    write_job(target="job")
    Path("job.yaml").rename("job")
    before = everything()
    result = CliRunner().invoke(main, ["run", "job"])
    assert (result.exit_code, "is the job file itself" in result.stderr) == (2, True)
    assert everything() == before


BESIDE = ("out.tif.msk", "out.tif.ovr", "out.tif.aux.xml")


def test_what_lies_beside_goes_with_the_output_that_is_replaced(make_raster):
    """GDAL would take the old file's mask, overviews and statistics for the new one's."""
    write_job()
    assert invoke().exit_code == 0
    hidden = np.zeros((5, 8), np.uint8)
    outside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False)
    with outside, rasterio.open("out.tif", "r+") as made:
        made.write_mask(hidden)
    metadata = "<Metadata><MDI key='a'>b</MDI></Metadata>"
    Path("out.tif.aux.xml").write_text(f"<PAMDataset>{metadata}</PAMDataset>")
    assert Path("out.tif.msk").exists()
    write_job(overwrite=False)
    result = invoke()
    assert result.exit_code == 2
    assert "out.tif: exists already" in result.output
    write_job()
    assert invoke("plan").exit_code == 0
    assert Path("out.tif.msk").exists()
    assert invoke().exit_code == 0
    assert not [name for name in BESIDE if Path(name).exists()]
    with rasterio.open("out.tif") as made:
        assert made.read_masks(1).all()
        assert "a" not in made.tags()


@pytest.mark.parametrize("name", BESIDE)
def test_what_would_be_read_with_a_new_output_is_told(name):
    Path(name).write_text("")
    write_job(overwrite=False)
    refused(f"{name}: would be read as a part of the output; remove it, or set", "run")
    Path(name).unlink()
    os.mkfifo(name)
    write_job()
    refused(f"{name}: would be read as a part of the output, and is not a file", "run")
    Path(name).unlink()
    os.link("in.tif", name)
    refused(f"{name}: would be read as a part of the output, and is the input itself", "run")


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
@pytest.mark.parametrize("end", [".msk", ".ovr"])
def test_files_beside_the_input_are_not_replaced(end, link):
    shutil.copy("in.tif", f"in.tif{end}")
    target = f"in.tif{end}" if link is None else "named.tif"
    if link is not None:
        link(f"in.tif{end}", target)
    write_job(target=target)
    refused("the output is a file beside the input")


def test_no_output_becomes_a_mask_of_the_input(folder):
    write_job(target="in.tif.msk")  # which is not there yet
    refused("in.tif.msk: the output is a file beside the input")
    (folder / "linked").symlink_to(".")
    write_job(source="linked/in.tif", target="in.tif.msk")
    refused("in.tif.msk: the output is a file beside the input")


def test_sources_of_a_vrt_are_not_replaced():
    Path("m.vrt").write_text(VRT.format("in.tif"))
    write_job("m.vrt", "in.tif")
    refused("the output is the input itself")
    write_job("m.vrt", "in.tif.ovr")
    refused("the output is a file beside the input")


def test_a_store_with_an_input_in_it_is_not_replaced(folder):
    pytest.importorskip("zarr")
    write_job(target="out.zarr")
    assert invoke().exit_code == 0
    assert invoke().exit_code == 0  # a store alone is
    shutil.move("in.tif", "out.zarr/in.tif")
    for source in ("out.zarr/in.tif", "link.tif"):
        if source == "link.tif":
            (folder / source).symlink_to("out.zarr/in.tif")
        write_job(source, "out.zarr")
        refused("the output is a folder that holds the input")


@pytest.mark.parametrize("appears", ["out.tif", "out_quicklook.png", "out.tif.json"])
def test_what_appears_under_way_is_not_replaced(appears):
    write_job(quicklook=True, report=True)

    def progress(done, total):
        if not os.path.lexists(appears):
            os.mkfifo(appears)

    job = tileconv.load_job("job.yaml")
    if appears == "out.tif":
        with pytest.raises(OutputExistsError, match="is a named pipe"):
            tileconv.run(job, progress=progress)
        assert not Path("out_quicklook.png").exists()
    else:  # the output is whole: that is no failure
        report = tileconv.run(job, progress=progress)
        assert "is a named pipe, so it is not replaced" in report.warnings[-1]
        np.testing.assert_array_equal(read("out.tif")[0], PIXELS * 2)
    assert stat.S_ISFIFO(os.lstat(appears).st_mode)
    assert not [*Path().glob(".*")]


def test_a_batch_is_checked_whole_before_its_first_byte(make_raster):
    make_raster(PIXELS, "b.tif")
    Path("m.vrt").write_text(VRT.format("in.tif"))
    cases = {
        "b_x.tif: is a named pipe": lambda: os.mkfifo("b_x.tif"),
        "b_x_quicklook.png: is no PNG": lambda: Path("b_x_quicklook.png").write_text("mine"),
        "b_x.tif: to be written for": lambda: os.link("job.yaml", "b_x.tif"),
    }
    for words, make in cases.items():
        write_job(["in.tif", "b.tif"], "{stem}_x.tif", quicklook=True)
        make()
        refused(words, "run")
        for path in Path().glob("b_x*"):
            path.unlink()
    write_job(["b.tif", "m.vrt"], "in.tif{stem}")  # no name of one is that of the other
    os.link("in.tif", "in.tifb")
    refused("it is the input", "run", "plan")


def test_a_file_that_cannot_be_made_leaves_nothing(folder):
    def fail(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    target = Target(folder / ("x" * 251 + ".png"), PNG, "the quicklook")
    with pytest.raises(tileconv.OutputError, match="the quicklook could not be written: No space"):
        put(target, (), fail)
    assert [path.name for path in folder.iterdir()] == ["in.tif"]
    put(target, (), lambda path: path.write_bytes(b"whole"))
    assert target.path.read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("kind", "content", "fits"),
    [
        (VRT_FILE, b"<VRTDataset rasterXSize='1'>", True),
        (VRT_FILE, b"\xef\xbb\xbf<?xml version='1.0'?>\n<VRTDataset>", True),
        (VRT_FILE, b"<VRTDatasets>", False),
        (VRT_FILE, b"II*\0", False),
        (TIFF_FILE, b"MM\0+\0", True),
        (HTML_PAGE, b"\n\n<!DOCTYPE html>", True),
        (HTML_PAGE, b"notes", False),
    ],
)
def test_the_first_bytes_tell_what_a_file_is(kind, content, fits, folder):
    (folder / "there").write_bytes(content)
    target = Target(folder / "there", kind, overwrite=True)
    if fits:
        target.check(OwnFiles(()))
    else:
        with pytest.raises(OutputExistsError, match=f"is no {kind.name}"):
            target.check(OwnFiles(()))
