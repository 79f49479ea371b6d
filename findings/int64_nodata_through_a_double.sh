#!/usr/bin/env bash
# int64 nodata of many digits comes back as one digit.
#
# Versions: rasterio 1.4.4 (GDAL 3.10.3) on Python 3.11 or newer; rasterio 1.5.2 (GDAL 3.12.2) where
# PYTHON is 3.12 or newer; numpy 2.4.6.
# Expected: an integer given as nodata of an int64 GeoTIFF is the file's nodata, or is refused.
# Seen: rasterio hands it to GDAL as a double, GDAL writes the double's shortest text into the tag,
# "-1e+17", and reads it back as an integer up to its first letter: -1. Then pixels that hold the
# nodata are valid, and those that hold -1 are not; -2**63 becomes -9. What 53 bits do not hold and
# 17 digits do is off by one, with no letter in it: 2**53 + 1 becomes 2**53. Values that a double
# rounds up beyond the range, like 2**63 - 1, are refused as out of range.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv env
rasterio=1.4.4
env/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' && rasterio=1.5.2
env/bin/pip install --quiet --disable-pip-version-check "rasterio==$rasterio" numpy==2.4.6
env/bin/python -W ignore - <<'PYTHON'
import numpy as np
import rasterio

print("rasterio", rasterio.__version__, "GDAL", rasterio.__gdal_version__)
KEYS = {"driver": "GTiff", "width": 3, "height": 1, "count": 1, "dtype": "int64"}
for given, seen in {-(10**17): -1, -(2**63): -9, 2**53 + 1: 2**53, -9999: -9999}.items():
    with rasterio.open("a.tif", "w", **KEYS, nodata=given) as dataset:
        dataset.write(np.array([[given, seen, 5]]), 1)
    with rasterio.open("a.tif") as dataset:
        mask = dataset.read_masks(1)[0].tolist()
        print(f"nodata={given} is read as {dataset.nodata:.0f}; mask of [{given}, {seen}, 5]: {mask}")
        assert dataset.nodata == seen
        assert mask == [0 if given == seen else 255, 0, 255]
try:
    rasterio.open("a.tif", "w", **KEYS, nodata=2**63 - 1)
except ValueError as error:
    print(f"nodata=2**63 - 1 is refused: {error}")
else:
    raise SystemExit("2**63 - 1 is taken now")
PYTHON
# Output with either version, but for the first line:
# rasterio 1.5.2 GDAL 3.12.2
# nodata=-100000000000000000 is read as -1; mask of [-100000000000000000, -1, 5]: [255, 0, 255]
# nodata=-9223372036854775808 is read as -9; mask of [-9223372036854775808, -9, 5]: [255, 0, 255]
# nodata=9007199254740993 is read as 9007199254740992; mask of [9007199254740993, 9007199254740992, 5]: [255, 0, 255]
# nodata=-9999 is read as -9999; mask of [-9999, -9999, 5]: [0, 0, 255]
# nodata=2**63 - 1 is refused: Given nodata value, 9.223372036854776e+18, is beyond the valid range of its data type, int64.
