"""Compute one tile of a focal statistic."""

from dataclasses import dataclass

import numpy as np

from tileconv.engine.focal import Focal, Outside
from tileconv.finish import Counts, finish_pixels
from tileconv.planning.reads import Reads


@dataclass(frozen=True)
class FocalRecipe:
    """All that the tiles of a run of a focal statistic have in common; bands go one by one."""

    focal: Focal
    bands: int

    @property
    def outputs(self) -> int:
        """Output planes."""
        return self.bands

    @property
    def copies(self) -> bool:
        """Every tile is copied."""
        return True

    @property
    def weighs(self) -> bool:
        """Which pixels are valid is found strip by strip."""
        return False

    def compute(
        self,
        reads: Reads,
        window: np.ndarray,
        masked: np.ndarray | None,
        out: np.ndarray,
        share: np.ndarray | None = None,
        *,
        stream: bool = False,
    ) -> Counts:
        """Compute all planes of one tile into ``out``; see `tile.compute_tile`."""
        del stream
        focal, counts = self.focal, Counts()
        modes = focal.operator.padding_mode
        y, x = (
            Outside(read.outside, mode == "missing")
            for read, mode in zip(reads, modes, strict=True)
        )
        sampling = (
            (reads[0].stride, reads[1].stride),
            (reads[0].dilation, reads[1].dilation),
        )
        hidden = None if masked is None else np.broadcast_to(masked, window.shape)
        values = np.empty(out.shape[1:], focal.numbers.compute)
        holes = np.empty(values.shape, bool)
        valid = None if share is None else np.empty(values.shape)
        if share is not None:
            share[:] = 1
        for band, plane in enumerate(window):
            mask = None if hidden is None else hidden[band]
            focal.run(plane, mask, (y, x), sampling, values, holes, valid)
            counts = counts.plus(finish_pixels(values, holes, focal.numbers, out[band]))
            if share is not None and valid is not None:
                np.minimum(share, valid, out=share, casting="same_kind")
        return counts
