#!/usr/bin/env bash
# A slice with a step, of one xarray object, lies in three places: rioxarray's to_raster, its
# reproject, and GDAL's reading of to_netcdf disagree.
#
# Versions: rioxarray 0.19.0, xarray 2026.9.0, rasterio 1.4.4 (GDAL 3.10.3), numpy 2.4.6,
# scipy 1.17.1; the same with rioxarray 0.23.0, rasterio 1.5.2 (GDAL 3.12.2), numpy 2.5.5.
# Expected: every third pixel of a raster of 10 m is a raster of 30 m, whichever way it leaves memory.
# Seen: xarray's slicing moves the coordinates; the GeoTransform in the attributes of the grid mapping
# stays. to_raster computes the transform from the coordinates: 30 m, right. to_netcdf writes the
# attribute, which GDAL believes before the coordinates: 10 m, a third of the size. reproject to the
# object's own coordinate system, which should change nothing, takes bounds from the coordinates and
# the size of a pixel from the attribute: pixels of 25 m, and the last one moves by 7.5 m each way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check rioxarray==0.19.0 xarray==2026.9.0 \
  rasterio==1.4.4 numpy==2.4.6 scipy==1.17.1
env/bin/python -W ignore - <<'PYTHON'
import numpy as np
import rasterio
import rioxarray
import scipy
import xarray as xr

print("rioxarray", rioxarray.__version__, "xarray", xr.__version__, "rasterio", rasterio.__version__,
      "GDAL", rasterio.__gdal_version__, "numpy", np.__version__, "scipy", scipy.__version__)
values = np.add.outer(10.0 * np.arange(12), np.arange(12))
whole = xr.DataArray(values, dims=("y", "x"), name="v",
                     coords={"y": 115 - 10.0 * np.arange(12), "x": 5 + 10.0 * np.arange(12)})
with rasterio.open("a.tif", "w", driver="GTiff", width=12, height=12, count=1, dtype="float64",
                   crs=32633, transform=rasterio.Affine(10, 0, 0, 0, -10, 120)) as dataset:
    dataset.write(values, 1)
third = rioxarray.open_rasterio("a.tif")[0].isel(y=slice(None, None, 3), x=slice(None, None, 3))
print("coordinates x", third.x.values, "GeoTransform", third.spatial_ref.attrs["GeoTransform"])

third.rio.to_raster("b.tif")
with rasterio.open("b.tif") as dataset:
    raster = dataset.transform[:6]
print("to_raster:         ", raster)

third.rename("v").to_netcdf("b.nc", engine="scipy")
with rasterio.open("netcdf:b.nc:v") as dataset:
    netcdf = dataset.transform[:6]
print("to_netcdf, in GDAL:", netcdf)

again = third.rio.reproject(third.rio.crs)
last = [[float(array[dim][-1]) for dim in ("x", "y")] for array in (third, again)]
print("reproject:         ", tuple(again.rio.transform())[:6], "last pixel at", last[0], "->", last[1])

assert raster == (30, 0, -10, 0, -30, 130)
assert netcdf == (10, 0, 0, 0, -10, 120)
assert (third.values == again.values).all() and last == [[95, 25], [87.5, 32.5]]
PYTHON
# Output:
# rioxarray 0.19.0 xarray 2026.9.0 rasterio 1.4.4 GDAL 3.10.3 numpy 2.4.6 scipy 1.17.1
# coordinates x [ 5. 35. 65. 95.] GeoTransform 0.0 10.0 0.0 120.0 0.0 -10.0
# to_raster:          (30.0, 0.0, -10.0, 0.0, -30.0, 130.0)
# to_netcdf, in GDAL: (10.0, 0.0, 0.0, 0.0, -10.0, 120.0)
# reproject:          (25.0, 0.0, 0.0, 0.0, -25.0, 120.0) last pixel at [95.0, 25.0] -> [87.5, 32.5]
