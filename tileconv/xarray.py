"""The xarray accessor: ``import tileconv.xarray``, then ``da.tileconv.convolve(kernel, ...)``.

DataArrays, Datasets and DataTrees have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from tileconv.api import convolve, focal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class _Accessor:
    """What ``.tileconv`` offers."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def convolve(self, kernel: ArrayLike, **options: Any) -> Any:
        """Convolve over the spatial dimensions; see `tileconv.convolve` for the options.

        >>> import numpy as np, xarray as xr, tileconv.xarray
        >>> da = xr.DataArray(np.ones((6, 6)), dims=("y", "x"), coords={"x": np.arange(6.0)})
        >>> da.tileconv.convolve(tileconv.kernels.box(2), stride=2).x.values
        array([0.5, 2.5, 4.5])
        """
        return convolve(self._data, kernel, **options)

    def focal(self, statistic: str, footprint: ArrayLike, **options: Any) -> Any:
        """Compute a statistic over the spatial dimensions; see `tileconv.focal` for the options.

        >>> import numpy as np, xarray as xr, tileconv.xarray
        >>> da = xr.DataArray(np.arange(16).reshape(4, 4), dims=("y", "x"))
        >>> da.tileconv.focal("max", 2, stride=2).values
        array([[ 5,  7],
               [13, 15]])
        """
        return focal(self._data, statistic, footprint, **options)


xr.register_dataarray_accessor("tileconv")(_Accessor)
xr.register_dataset_accessor("tileconv")(_Accessor)
xr.register_datatree_accessor("tileconv")(_Accessor)
