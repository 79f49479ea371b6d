"""From the algorithm that was chosen to its loops: what needs numba, and planning does not."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tileconv.engine.choose import COLUMNS_FIRST, DIRECT, SEPARABLE, Algorithm
from tileconv.engine.kernel_layout import Pair
from tileconv.engine.loops.columns_first import ColumnsFirst
from tileconv.engine.loops.direct import Direct
from tileconv.engine.loops.two_pass import TwoPass
from tileconv.engine.missing.detect import MissingDetector
from tileconv.operators.convolution import Taps


class Loops(Protocol):
    """Kernels laid out for the loops."""

    @property
    def detects_missing(self) -> bool:
        """Whether `run` takes a detector of missing pixels."""

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        stream: bool = False,
        detector: MissingDetector | None = None,
    ) -> None:
        """Write the "valid" correlations of planes (bands, H, W) into out (kernels, OH, OW).

        ``stream`` says that nobody reads them soon. A ``detector`` replaces missing pixels while
        rows are packed.
        """


_LOOPS: dict[str, Callable[[Pair, Pair, Sequence[Taps], int], Loops]] = {
    DIRECT.name: Direct.of,
    SEPARABLE.name: TwoPass.of,
    COLUMNS_FIRST.name: ColumnsFirst.of,
}


def prepare(
    algorithm: Algorithm, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int
) -> Loops:
    """Lay out kernels for planes that are sampled with a stride and a dilation."""
    return _LOOPS[algorithm.name](stride, dilation, kernels, bands)
