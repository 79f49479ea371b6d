#!/usr/bin/env bash
# A masked chunk of a small dtype cannot travel between dask workers.
#
# Versions: distributed 2026.8.0, dask 2026.8.0, numpy 2.4.6.
# Expected: numpy.ma arrays, for which distributed has a serializer of its own, travel as they are.
# Seen: the serializer sends the fill value, which numpy 2 leaves at 999999 for every integer dtype
# that is not given one, and the receiver makes an array with it: TypeError for integers of one and
# two bytes, that is for most satellite scenes. Halves travel, and their fill value of 1e20 has
# become infinity. A fill value that the dtype holds is the way around, as set here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0 numpy==2.4.6
env/bin/python -W ignore - <<'PYTHON'
import distributed
import numpy as np
from distributed.protocol import deserialize, serialize

print("distributed", distributed.__version__, "numpy", np.__version__)
for dtype in ("uint8", "int16", "uint16", "int32", "float16", "float32"):
    array = np.ma.masked_array(np.arange(3, dtype=dtype), mask=[True, False, False])
    try:
        came = deserialize(*serialize(array))
        told = f"fill value {array.fill_value} came as {came.fill_value}"
    except TypeError as error:
        told = f"TypeError: {error}"
    print(f"{dtype}: {told}")
    assert ("TypeError" in told) == (dtype in ("uint8", "int16", "uint16"))
    assert ("inf" in told) == (dtype == "float16")
    array.fill_value = 0
    assert deserialize(*serialize(array)).mask.tolist() == [True, False, False]
print("with fill_value = 0 each of them came")
PYTHON
# Output:
# distributed 2026.8.0 numpy 2.4.6
# uint8: TypeError: Cannot convert fill_value 999999 to dtype uint8
# int16: TypeError: Cannot convert fill_value 999999 to dtype int16
# uint16: TypeError: Cannot convert fill_value 999999 to dtype uint16
# int32: fill value 999999 came as 999999
# float16: fill value 1e+20 came as inf
# float32: fill value 1e+20 came as 1.0000000200408773e+20
# with fill_value = 0 each of them came
