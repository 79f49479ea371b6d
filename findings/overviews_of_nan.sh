#!/usr/bin/env bash
# GDAL's cubic overviews of a raster with 2 % missing pixels are all missing, if missing is NaN.
#
# Versions: rasterio 1.4.4 (GDAL 3.10.3), numpy 2.4.6.
# Expected: the overviews of a float raster that declares NaN as its nodata leave missing pixels out,
# as those of one that declares -9999 do.
# Seen: average leaves them out. bilinear, cubic and lanczos do so for -9999 only: one NaN spoils
# every pixel that it has a share in, and each overview is made of the one before. With 2 % of
# the pixels missing at random, cubic's first overview lacks 71 % of its pixels, the third all of
# them. GDAL's COG driver makes cubic overviews unless told otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
env/bin/python -W ignore - <<'PYTHON'
import numpy as np
import rasterio
from rasterio.enums import Resampling

print("rasterio", rasterio.__version__, "GDAL", rasterio.__gdal_version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
pixels = rng.random((512, 512), "float32")
missing = rng.random(pixels.shape) < 0.02
KEYS = {"driver": "GTiff", "width": 512, "height": 512, "count": 1, "dtype": "float32"}
for nodata in (-9999, np.nan):
    for method in ("nearest", "average", "bilinear", "cubic", "lanczos"):
        with rasterio.open("a.tif", "w", **KEYS, nodata=nodata) as dataset:
            dataset.write(np.where(missing, np.float32(nodata), pixels), 1)
        with rasterio.open("a.tif", "r+") as dataset:
            dataset.build_overviews([2, 4, 8], Resampling[method])
        shares = []
        for level in range(3):
            with rasterio.open("a.tif", overview_level=level) as dataset:
                shares.append((dataset.read_masks(1) == 0).mean())
        print(f"nodata {nodata}, {method}: missing " + ", ".join(f"{s:.1%}" for s in shares))
        spoilt = nodata != -9999 and method not in ("nearest", "average")
        assert (shares[2] > 0.9) == spoilt and (shares[0] > 0.25) == spoilt
PYTHON
# Output:
# rasterio 1.4.4 GDAL 3.10.3 numpy 2.4.6
# nodata -9999, nearest: missing 2.1%, 2.0%, 2.1%
# nodata -9999, average: missing 0.0%, 0.0%, 0.0%
# nodata -9999, bilinear: missing 0.0%, 0.0%, 0.0%
# nodata -9999, cubic: missing 0.0%, 0.0%, 0.0%
# nodata -9999, lanczos: missing 0.1%, 0.0%, 0.0%
# nodata nan, nearest: missing 2.1%, 2.0%, 2.1%
# nodata nan, average: missing 0.0%, 0.0%, 0.0%
# nodata nan, bilinear: missing 27.3%, 85.3%, 99.3%
# nodata nan, cubic: missing 70.9%, 99.6%, 100.0%
# nodata nan, lanczos: missing 93.3%, 100.0%, 100.0%
