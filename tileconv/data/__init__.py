"""A small real scene that ships with the package, and a job to try on it.

Where the scene comes from is told in README.md beside it.
"""

import os
from importlib.resources import as_file, files
from pathlib import Path

from tileconv.errors import OutputError, OutputExistsError
from tileconv.text import visible

SCENE = "landsat8_crop.tif"

STARTER = """\
# A tileconv job. See what it does: tileconv plan {job};  run it: tileconv run {job}

input:
  path: {scene}        # relative to this file
  # bands: [1, 2, 3]             # 1-based; default all
  # mask: auto                   # which make pixels missing: auto, nodata, dataset, none

kernel:                          # weights or a name
  name: gaussian                 # box, gaussian, sobel_x, sobel_y, laplacian
  size: 9
  sigma: 2.0
  # weights: [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
  # normalize: false             # divide by the sum of the weights
  # flip: false                  # true convolution instead of correlation

stride: 4                        # n or [y, x]; below, equal to or above the kernel
# dilation: 1
padding: same                    # valid, same, n, [y, x] or [top, left, bottom, right]
padding_mode: reflect            # constant, edge, reflect, symmetric, wrap, missing, or [y, x]

output:
  path: "{{stem}}_smooth.tif"      # a folder that is not there is made
  quicklook: true                # a PNG of input and output (needs Pillow)
  # dtype: float32               # integers are rounded and saturated
  # nodata: nan
  # compress: zstd               # zstd, deflate, lzw, none
  # overwrite: false

# compute:
#   workers: auto                # threads
#   memory_limit: auto           # e.g. 2 GiB
"""


def write_starter(job_file: Path) -> tuple[Path, Path]:
    """Write a job and the scene beside it; returns both paths. Never replaces a file."""
    scene = job_file.parent / SCENE
    for path in (job_file, scene):
        if os.path.lexists(path):  # a link that leads nowhere is there as well
            raise OutputExistsError(
                f"{path}: exists already; give another name, or remove it first"
            )
    try:
        job_file.parent.mkdir(parents=True, exist_ok=True)
        text = STARTER.format(scene=SCENE, job=visible(job_file.name))
        with job_file.open("x", encoding="utf-8") as file:
            file.write(text)
        with as_file(files(__name__) / SCENE) as source, scene.open("xb") as copy:
            copy.write(source.read_bytes())
    except OSError as error:
        raise OutputError(
            f"{error.filename or job_file}: cannot be written: {error.strerror}"
        ) from error
    return job_file, scene
