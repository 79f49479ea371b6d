#!/usr/bin/env bash
# np.asarray of a query-planned dask array is an array of objects, and float32 * 2 is float64.
#
# Versions: dask 2026.8.0, numpy 2.4.6 (array.query-planning chooses between two classes of arrays).
# Expected: np.asarray computes a dask array; Python numbers leave float32 and uint8 as they are.
# Both hold without query planning.
# Seen with it: the class has no __array__ method, so numpy walks over it as over a sequence and
# makes an array of objects, a lazy dask array for each pixel, without an error (xarray's .values
# does so, too); and `array * 2` is float64 where `array` is float32, int64 where it is uint8,
# declared and computed alike, two to eight times the memory.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check dask==2026.8.0 numpy==2.4.6
cat >show.py <<'PYTHON'
import sys

import dask

planned = sys.argv[1] == "planned"
dask.config.set({"array.query-planning": planned})

import dask.array as da
import numpy as np

print(f"dask {dask.__version__} numpy {np.__version__} query planning {planned}")
for dtype, wide in (("float32", "float64"), ("uint8", "int64")):
    array = da.from_array(np.ones((4, 4), dtype), chunks=2)
    twice = array * 2
    print(f"{dtype} * 2: declared {twice.dtype}, computed {twice.compute().dtype}")
    assert twice.dtype == twice.compute().dtype == (wide if planned else dtype)
    inside = np.asarray(array)
    print(f"np.asarray: dtype {inside.dtype}, element {type(inside[0, 0]).__module__}")
    assert inside.shape == (4, 4)
    assert inside.dtype == (object if planned else dtype)
    assert isinstance(inside[0, 0], da.Array) == planned
PYTHON
env/bin/python show.py plain
env/bin/python show.py planned
# Output:
# dask 2026.8.0 numpy 2.4.6 query planning False
# float32 * 2: declared float32, computed float32
# np.asarray: dtype float32, element numpy
# uint8 * 2: declared uint8, computed uint8
# np.asarray: dtype uint8, element numpy
# dask 2026.8.0 numpy 2.4.6 query planning True
# float32 * 2: declared float64, computed float64
# np.asarray: dtype object, element dask.array._array_expr._collection
# uint8 * 2: declared int64, computed int64
# np.asarray: dtype object, element dask.array._array_expr._collection
