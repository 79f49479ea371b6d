"""Files that a job names: regular ones, bounded, and whatever is in them one message."""

import io
import os
import re
import socket
import struct
import tracemalloc
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv.bounded import TooLargeError, read_bounded, read_start
from tileconv.cli import main
from tileconv.errors import ClusterError, ConfigError, InputError

PIXELS = np.arange(1, 41, dtype=np.uint8).reshape(5, 8)
JOB = "input: {path: in.tif}\nkernel: {weights: [[1]]}\noutput: {path: out.tif}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, make_raster):
    """A folder with a raster, in which the tests run."""
    monkeypatch.chdir(tmp_path)
    make_raster(PIXELS)
    return tmp_path


def write_job(**sections):
    job = {"input": {"path": "in.tif"}, "kernel": {"weights": [[1]]}, "output": {"path": "out.tif"}}
    Path("job.yaml").write_text(yaml.safe_dump(job | sections))


def refused(words, code=2, command="run", *arguments):
    result = CliRunner().invoke(main, [command, "job.yaml", *arguments])
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, words in result.stderr) == (code, True), result.output
    return result.stderr


# ---- What is no regular file is never waited for


def test_only_regular_files_are_opened(folder):
    os.mkfifo("pipe")
    (folder / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    for name, words in {
        "pipe": "is a named pipe",
        "link": "is a named pipe",
        "socket": "is a socket",
        "/dev/zero": "is a device",
        ".": "Is a directory",
    }.items():
        for look in (lambda path: read_bounded(path, 9), lambda path: read_start(path, 9)):
            with pytest.raises(OSError, match=words):
                look(Path(name))
    for name in ("none", "a\0b", "\ud800"):
        with pytest.raises(FileNotFoundError):
            read_bounded(Path(name), 9)


def test_no_more_is_read_than_the_bound(folder):
    (folder / "ten").write_bytes(b"0123456789")
    (folder / "link").symlink_to("ten")
    assert read_bounded(folder / "link", 10) == b"0123456789"
    assert (read_start(folder / "ten", 4), read_start(folder / "ten", 40)) == (
        b"0123",
        b"0123456789",
    )
    with pytest.raises(TooLargeError, match="has more than 9 bytes"):
        read_bounded(folder / "ten", 9)
    with pytest.raises(TooLargeError):  # which says that it has 0 bytes
        read_bounded(Path("/proc/self/status"), 9)


@pytest.mark.parametrize("suffix", [".npy", ".npz:a", ".csv"])
def test_a_pipe_is_no_kernel(suffix):
    os.mkfifo(f"k{suffix.partition(':')[0]}")
    write_job(kernel={"file": f"k{suffix}"})
    refused("is a named pipe, not a file")


def test_a_pipe_is_no_job():
    os.mkfifo("job.yaml")
    refused("job.yaml: cannot be read: is a named pipe, not a file")


def test_pipes_beside_an_input_are_not_opened():
    os.mkfifo("in.tif.aux.xml")
    write_job()
    refused("in.tif: in.tif.aux.xml beside it is not a file", 3)
    Path("m.vrt").write_text(VRT.format("in.tif"))
    write_job(input={"path": "m.vrt"})
    refused("in.tif.aux.xml beside it is not a file", 3)


def test_what_else_lies_in_the_folder_does_not_matter():
    Path("loop").symlink_to("loop")
    os.mkfifo("in.tif.msk")
    write_job()
    refused("in.tif: in.tif.msk beside it is not a file", 3)
    Path("in.tif.msk").unlink()
    Path("in.tif.msk").symlink_to("in.tif.msk")
    assert CliRunner().invoke(main, ["plan", "job.yaml"]).exit_code == 0


def test_a_pipe_is_no_output_to_verify():
    os.mkfifo("out.tif")
    write_job()
    result = CliRunner().invoke(main, ["verify", "job.yaml"])
    assert (result.exit_code, "is a named pipe" in result.stdout) == (3, True), result.output


def test_reports_are_read_with_bounds(monkeypatch):
    write_job(output={"path": "out.tif", "report": True})
    assert CliRunner().invoke(main, ["run", "job.yaml"]).exit_code == 0
    assert CliRunner().invoke(main, ["verify", "job.yaml"]).exit_code == 0
    report = Path("out.tif.json")
    for content in (b"[" * 100_000, b"\xff", b"9" * 5000, b'"\\ud800"'):
        report.write_bytes(content)
        result = CliRunner().invoke(main, ["verify", "job.yaml"])
        assert (result.exit_code, "cannot be read: " in result.stdout) == (3, True), result.output
    monkeypatch.setattr("tileconv.jobs.sidecar.LARGEST_REPORT", 1000)
    report.write_bytes(b" " * 1001)
    assert "has more than 1000 bytes" in CliRunner().invoke(main, ["verify", "job.yaml"]).stdout
    report.unlink()
    os.mkfifo(report)
    assert "is a named pipe" in CliRunner().invoke(main, ["verify", "job.yaml"]).stdout


# ---- Kernel files


def npy(descr="'<f8'", shape="(1, 1)", data=b"\0" * 8, version=1):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


BAD_NPY = {
    "huge": npy(shape="(1 << 40,)".replace("1 << 40", str(1 << 40))),
    "huger": npy(shape=f"({10**300}, 1)"),
    "negative": npy(shape="(-1, -1)"),
    "no size": npy("'V0'", f"({1 << 60},)"),
    "text": npy("'<U1000000000'", "(0, 1)"),
    "records": npy("[('a', '<f8')]"),
    "objects": npy("'|O'"),
    "nonsense": npy("'nonsense'"),
    "deep": npy("(" * 3000 + ")" * 3000),
    "version": npy(version=9),
    "cut": npy()[:30],
    "empty": b"",
    "long header": npy(" " * 20_000 + "'<f8'", version=2),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_a_bad_npy_is_one_message(name):
    for file, content in (("k.npy", BAD_NPY[name]), ("k.npz", as_npz(BAD_NPY[name]))):
        Path(file).write_bytes(content)
        write_job(kernel={"file": file if file.endswith("npy") else "k.npz:a"})
        tracemalloc.start()
        try:
            assert "line 3: " in refused(f"kernel: {file}: ")
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()


def as_npz(content, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-30], "cannot be read as a kernel"),
        (lambda data: data[:40] + b"\xff" * 20 + data[60:], "cannot be read as a kernel"),
        (lambda data: data.replace(b"\x14\0\0\0", b"\x14\0\1\0"), "cannot be read as a kernel"),
        (lambda _: as_npz(npy(), zipfile.ZIP_BZIP2), "compressed by a method that numpy"),
        (lambda _: as_npz(npy(), zipfile.ZIP_LZMA), "compressed by a method that numpy"),
        (lambda _: b"PK\1\2" * 10_001, "too many arrays"),
        (lambda _: b"no archive", "cannot be read as a kernel"),
    ],
    ids=["cut", "damaged", "encrypted", "bzip2", "lzma", "many", "text"],
)
def test_a_bad_npz_is_one_message(change, words):
    Path("k.npz").write_bytes(change(as_npz(npy(shape="(9, 9)", data=b"\1" * 648))))
    write_job(kernel={"file": "k.npz:a"})
    refused(words)


def test_what_inflates_is_not_inflated(monkeypatch):
    monkeypatch.setattr("tileconv.jobs.kernel._LARGEST_FILE", 1 << 20)
    bomb = as_npz(npy(shape=f"({1 << 23},)", data=b"\0" * (1 << 26)))
    Path("k.npz").write_bytes(bomb)
    write_job(kernel={"file": "k.npz:a"})
    tracemalloc.start()
    try:
        refused("a is too large for a kernel")
        Path("k.npz").write_bytes(bomb.replace(*lie(bomb)))  # one that says it is small
        refused("k.npz: ")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def lie(bomb):
    """Return the true size of what is in an archive, as it stands there, and another one."""
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        size = archive.getinfo("a.npy").file_size
    return struct.pack("<I", size), struct.pack("<I", 200)


def test_kernel_files_have_an_end():
    for name, most in (("k.npy", 1 << 28), ("k.npz:a", 1 << 28), ("k.csv", 1 << 25)):
        path = Path(name.partition(":")[0])
        path.touch()
        os.truncate(path, most + 1)
        write_job(kernel={"file": name})
        refused(f"too large for a kernel: has more than {most >> 20} MiB")
        path.unlink()


def test_tables_as_people_have_them():
    for content in (
        b"\xef\xbb\xbf1,2\r\n3,4\r\n",
        b"# weights\n1,2\n\n3,4",
        "1,2\n3,4 # é\n".encode(),
    ):
        Path("k.csv").write_bytes(content)
        write_job(kernel={"file": "k.csv"})
        weights = tileconv.load_job("job.yaml").operator.weights
        assert weights.tolist() == [[1, 2], [3, 4]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in (b"", b"# nothing\n", b"1,2\n3\n", b"\xff\xfe1", b"1;2\n", b"\0"):
            Path("k.csv").write_bytes(content)
            refused("k.csv: ")


# ---- Odd text in jobs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (JOB + 'stride: "\\UFFFFFFFF"\n', "job.yaml, line 4: not valid YAML"),
        (JOB + 'stride: "\\U00110000"\n', "job.yaml, line 4: not valid YAML"),
        (f"%YAML 1.{'9' * 5000}\n---\n{JOB}", "job.yaml, line 1: not valid YAML"),
        (JOB.replace("in.tif", '"\\uD800.tif"'), "line 1: '\\ud800.tif' holds half of a character"),
        (
            JOB.replace("out.tif", '"\\uDC00.tif"'),
            "line 3: '\\udc00.tif' holds half of a character",
        ),
        (JOB + '"\\uD800": 1\n', "line 4: '\\ud800' holds half of a character"),
        (JOB + "a\x1bb: 1\n", "job.yaml, line 4: not valid YAML: '\\x1b'"),
    ],
)
def test_escapes_that_are_no_text(text, words):
    Path("job.yaml").write_text(text)
    refused(words)


def test_two_halves_are_a_character():
    Path("job.yaml").write_text(JOB.replace("out.tif", '"\\uD83D\\uDE00.tif"'))
    assert tileconv.load_job("job.yaml").target.name == "\U0001f600.tif"


def test_bytes_that_are_no_text_on_the_command_line(folder):
    odd = os.fsdecode(b"\xff")
    write_job()
    refused("--set stride=\\udcff: is not text in UTF-8", 2, "run", "--set", f"stride={odd}")
    refused("is not text in UTF-8", 2, "run", "--scheduler", odd)
    result = CliRunner().invoke(main, ["run", f"{odd}.yaml"])
    assert (result.exit_code, "\\udcff.yaml: no such job file" in result.stderr) == (2, True)
    Path("job.yaml").rename(f"{odd}.yaml")
    assert CliRunner().invoke(main, ["run", f"{odd}.yaml"]).exit_code == 0  # the job is fine
    Path("in.tif").rename(f"{odd}.tif")
    write_job(input={"path": "*.tif"}, output={"path": "o_{stem}.tif"})
    refused("output.path: is not text in UTF-8: 'o_\\udcff.tif'")


@pytest.mark.parametrize("path", ["\ud800.tif", "a/../\ud800/../b.tif", "\ud800/*.tif", "\0/*"])
def test_letters_that_no_name_has_from_python(path):
    job = {"input": {"path": path}, "kernel": {"name": "box"}, "output": {"path": "o.tif"}}
    with pytest.raises((ConfigError, InputError), match="must be a path|no such file|no file"):
        tileconv.plan(tileconv.load_job(job))
    with pytest.raises(ConfigError, match=r"output\.path: (not a path|needs a file name)"):
        tileconv.load_job(job | {"input": {"path": "in.tif"}, "output": {"path": path}})


@pytest.mark.parametrize("root", ["\ud800", "a\0b", "x" * 300, "none", "in.tif"])
def test_a_root_is_a_folder(root):
    Path("m.vrt").write_text(VRT.format("in.tif"))
    with pytest.raises(ConfigError, match="input.root: (there is no such folder|not a path)"):
        tileconv.convolve_raster("m.vrt", "o.tif", "box", root=root)


@pytest.mark.parametrize(
    ("length", "keys", "words"),
    [
        (256, {}, "name too long: the output would have one of 256 bytes"),
        (246, {"quicklook": True}, "name too long: the quicklook would have one of 256 bytes"),
        (251, {"report": True}, "name too long: the report would have one of 256 bytes"),
        (245, {"layout": "parts"}, "name too long: the folder of the parts would have one of 256"),
    ],
)
def test_names_too_long_are_told_before_the_run(length, keys, words):
    suffix = ".vrt" if keys.get("layout") else ".tif"
    for stem in ("x" * (length - 4), "ü" * (length // 2 - 2) + "x" * (length % 2)):
        write_job(output={"path": f"out/{stem}{suffix}", **keys})
        refused(f"output.path: {words}")
        assert not Path("out").exists()


def test_the_longest_names_are_written():
    for stem in ("x" * 242, "ü" * 121):
        write_job(output={"path": f"{stem}.tif", "quicklook": False, "report": True})
        assert CliRunner().invoke(main, ["run", "job.yaml"]).exit_code == 0
        assert Path(f"{stem}.tif.json").exists()
    for stem in ("x" * 241, "ü" * 120):
        write_job(output={"path": f"{stem}.tif", "quicklook": True})
        assert CliRunner().invoke(main, ["run", "job.yaml"]).exit_code == 0
        assert Path(f"{stem}_quicklook.png").exists()
    assert not [*Path().glob(".*")]


# ---- VRTs

VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="5"><VRTRasterBand dataType="Byte" band="1">'
    '<SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename></SimpleSource>'
    "</VRTRasterBand></VRTDataset>"
)


def test_sources_of_a_vrt_that_cannot_be_opened(monkeypatch):
    os.mkfifo("pipe.tif")
    write_job(input={"path": "m.vrt"})
    for name, words in {
        "x" * 300 + ".tif": "File name too long",
        "pipe.tif": "is a named pipe",
        "none.tif": "no such file",
    }.items():
        Path("m.vrt").write_text(VRT.format(name))
        assert words in refused("m.vrt: this VRT is not read: source '", 3)
    monkeypatch.setattr("tileconv.raster.vrt.LARGEST_BYTES", 100)
    refused("m.vrt: this VRT is not read: it is larger than", 3)


# ---- Schedulers


def test_tls_needs_keys():
    write_job()
    refused(
        "tls://127.0.0.1:9 needs compute.security", 2, "run", "--scheduler", "tls://127.0.0.1:9"
    )
    os.mkfifo("ca.pem")
    for security, words in {
        "none.pem": "compute.security.tls_ca_file: none.pem: No such file",
        "ca.pem": "compute.security.tls_ca_file: ca.pem: is a named pipe",
        "in.tif": "compute.security: ",
    }.items():
        keys = {"tls_ca_file": security, "tls_client_cert": security}
        write_job(compute={"scheduler": "tls://127.0.0.1:9", "security": keys})
        refused(words)


def test_keys_are_not_replaced():
    Path("keys.pem").write_bytes(Path("in.tif").read_bytes())
    os.link("keys.pem", "named.tif")
    keys = {"tls_ca_file": "keys.pem"}
    write_job(
        compute={"scheduler": "tls://127.0.0.1:9", "security": keys},
        output={"path": "named.tif", "overwrite": True},
    )
    refused("the output is the file of compute.security.tls_ca_file itself")


@pytest.mark.filterwarnings("ignore:.*is not encrypted")
def test_a_scheduler_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("tileconv.cluster.connect.CONNECT_SECONDS", 0.5)
    write_job()
    job = tileconv.load_job("job.yaml")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "tcp://{}:{}".format(*silent.getsockname())
        with pytest.raises(ClusterError, match=re.escape(f"answers at {address}: there was no")):
            tileconv.run(replace(job, scheduler=address))
    for wrong in ("tcp://[:8", "tcp://a:b:3", f"tcp://{'x' * 300}:8786"):
        with pytest.raises(ConfigError, match="is no address"):
            tileconv.run(replace(job, scheduler=wrong))
    assert not Path("out.tif").exists()
    assert read("in.tif")[0].tolist() == PIXELS.tolist()
