"""From the algorithm that was chosen to its loops: what needs numba, and planning does not."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.choose import COLUMNS_FIRST, DIRECT, SEPARABLE, Algorithm
from tileconv.engine.columns import ColumnsFirst
from tileconv.engine.direct import Direct
from tileconv.engine.program import Pair
from tileconv.engine.separable import Separable
from tileconv.engine.sieve import Sieve


class Prepared(Protocol):
    """Kernels laid out for the loops."""

    @property
    def sifts(self) -> bool:
        """Whether `run` takes a sieve."""

    @property
    def settles(self) -> bool:
        """Whether sums are settled by the sieve as they are made."""

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        final: bool = False,
        sieve: Sieve | None = None,
    ) -> None:
        """Write the "valid" correlations of planes (bands, H, W) into out (kernels, OH, OW).

        ``final`` says that nobody reads them soon. A ``sieve`` takes missing pixels out of rows as
        they are dealt out.
        """


_LOOPS: dict[str, Callable[[Pair, Pair, Sequence[Taps], int], Prepared]] = {
    DIRECT.name: Direct.of,
    SEPARABLE.name: Separable.of,
    COLUMNS_FIRST.name: ColumnsFirst.of,
}


def prepare(
    algorithm: Algorithm, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int
) -> Prepared:
    """Lay out kernels for planes that are sampled with a stride and a dilation."""
    return _LOOPS[algorithm.name](stride, dilation, kernels, bands)
