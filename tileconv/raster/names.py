"""What the name of a file, and its first bytes, say of its format."""

from __future__ import annotations

from pathlib import Path, PurePath

from tileconv.bounded import read_start

OTHER_SUFFIXES = {
    "a NetCDF": ".nc .nc4 .cdf",
    "an HDF5 file": ".h5 .hdf5 .he5",
    "an HDF4 file": ".hdf .hdf4",
    "a PNG": ".png",
    "a JPEG": ".jpg .jpeg",
    "a JPEG 2000": ".jp2 .j2k .jpx",
    "a GIF": ".gif",
    "a BMP": ".bmp",
    "a WebP": ".webp",
    "a GRIB": ".grb .grib .grb2 .grib2",
    "an ASCII grid": ".asc",
    "an ERDAS Imagine file": ".img",
    "an ENVI raster": ".bil .bip .bsq .hdr",
    "an ERS": ".ers",
    "an ECW": ".ecw",
    "a MrSID": ".sid",
    "a KEA": ".kea",
    "a NITF": ".ntf .nitf",
    "an MRF": ".mrf",
    "a LERC": ".lrc .lerc",
    "a FITS": ".fits .fit",
    "an SRTM tile": ".hgt",
    "a GeoPackage": ".gpkg",
    "a PDF": ".pdf",
    "a numpy array": ".npy .npz",
    "a Parquet file": ".parquet",
    "a table": ".csv",
    "a JSON file": ".json .geojson",
    "an XML file": ".xml",
    "a YAML file": ".yaml .yml",
    "an archive": ".zip .tar .gz .tgz .7z",
}
_FORMATS = {end: name for name, ends in OTHER_SUFFIXES.items() for end in ends.split()}

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START = b"\x89PNG\r\n\x1a\n"
VRT = "a VRT"
_STARTS = (
    (b"CDF\x01", "a NetCDF"),
    (b"CDF\x02", "a NetCDF"),
    (b"CDF\x05", "a NetCDF"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as NetCDF-4 is"),
    (b"\x0e\x03\x13\x01", "an HDF4 file"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (PNG_START, "a PNG"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"GIF8", "a GIF"),
    (b"GRIB", "a GRIB"),
    (b"EHFA_HEADER_TAG", "an ERDAS Imagine file"),
    (b"SIMPLE  =", "a FITS"),
    (b"NITF0", "a NITF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a numpy array"),
    (b"<VRTDataset", VRT),
)


def shortened(name: str, most: int = 128) -> str:
    """Return as much of a name as leaves room for a mark: it has 255 bytes at the most.

    >>> shortened("a" * 200) == "a" * 128, shortened("\u00fc" * 3, 5)
    (True, '\u00fc\u00fc')
    """
    return name.encode(errors="surrogateescape")[:most].decode(errors="ignore")


def other_format_of(name: PurePath) -> str | None:
    """Return what is no output of tileconv's and the name says, None if it says no such thing.

    >>> other_format_of(PurePath("out.nc")), other_format_of(PurePath("v1.2"))
    ('a NetCDF', None)
    """
    return _FORMATS.get(name.suffix.lower())


def format_of(path: Path) -> str | None:
    """Return what a file is by its first bytes, None if they are none that are known."""
    try:
        start = read_start(path, 32)
    except OSError:
        return None
    return next((name for begin, name in _STARTS if start.startswith(begin)), None)
