"""xarray objects that tests of labelled arrays share, and how GDAL reads what was written."""

import numpy as np
import pytest

xr = pytest.importorskip("xarray")
pytest.importorskip("rioxarray")

import rasterio  # noqa: E402

BOX = np.ones((3, 3)) / 9
BLOCK = np.ones((4, 4)) / 16
TRANSFORM = (10.0, 0.0, 0.0, 0.0, -10.0, 100.0)
"""Of `grid`."""
BLOCKS = (40.0, 0.0, 0.0, 0.0, -40.0, 100.0)
"""Of its blocks of 4 x 4."""

QUIET = [
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),  # rioxarray's, of affine
    pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning"),  # zarr's
]


def grid(values=None, *, size=(12, 16), attrs=None, dims=("y", "x"), place=False):
    """Return an array on pixels of 10 m whose upper left corner is (0, 100).

    ``place``: with the transform, without which GDAL finds none in netCDF files.
    """
    values = np.ones(size, "float32") if values is None else values
    array = xr.DataArray(
        values,
        dims=dims,
        coords={
            "y": 95 - 10.0 * np.arange(values.shape[-2]),
            "x": 5 + 10.0 * np.arange(values.shape[-1]),
        },
        name="v",
    )
    array = array.rio.write_crs(32633)
    array = array.rio.write_transform() if place else array
    return array.assign_attrs(attrs or {})


def bands(count, **attrs):
    """Return an array (band, y, x)."""
    array = grid(np.ones((count, 8, 8), "float32"), dims=("band", "y", "x"), attrs=attrs)
    return array.assign_coords(band=np.arange(1, count + 1))


def gdal_of(data, path):
    """Return (transform, nodata) as GDAL reads what was written."""
    if str(path).endswith(".nc"):
        data.to_netcdf(path, engine="scipy")
        path = f"netcdf:{path}:v"
    else:
        data.rio.to_raster(path)
    with rasterio.open(path) as dataset:
        return tuple(dataset.transform[:6]), dataset.nodata
