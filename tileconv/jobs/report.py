"""What a run did."""

from dataclasses import asdict, dataclass
from typing import Any

from tileconv.text import plural, shown, size, visible


@dataclass(frozen=True)
class PartReport:
    """What a task on a cluster did."""

    part: int
    tiles: int
    seconds: float
    attempt: int
    """How often the part was begun, this time included."""
    blocks_decoded: int
    bytes_written: int
    worker: str


@dataclass(frozen=True)
class ClusterUse:
    """What a run on a cluster did."""

    parts: int
    resumed: int
    """Parts that an interrupted run had finished."""
    retries: int
    """Parts begun more than once, as often as they were begun again."""
    workers: int
    """Workers that have finished parts."""
    assembly_seconds: float
    timings: tuple[PartReport, ...]


@dataclass(frozen=True)
class Report:
    """What a finished run did. The output at ``target`` is complete and checked.

    >>> report = Report("/in.tif", "/out.tif", (1, 510, 510), "float32", 1.5, 4, 16, 9, 2048, 0, 0)
    >>> print(report)
    Output    /out.tif
              1 band of 510 x 510 float32, 2.0 KiB on disk, checked
    Run       1.5 s, 4 tiles, 16 blocks decoded
    """

    source: str
    target: str
    out_shape: tuple[int, int, int]
    """(bands, rows, columns)."""
    dtype: str
    seconds: float
    """Wall time, from the first tile to the rename."""
    tiles: int
    blocks_decoded: int
    """Storage blocks of the input that were decoded."""
    pixels_covered: int
    """Input pixels that lie inside a receptive field, all bands."""
    bytes_written: int
    """Size of the output file."""
    missing: int
    """Missing outputs; not counted where nodata is NaN."""
    collisions: int
    """Valid outputs that equal nodata and so read as missing."""
    quicklook: str | None = None
    warnings: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    """The files of a mosaic, the first of which is ``source``."""
    cluster: ClusterUse | None = None
    """What a run on a cluster did, part by part."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON's values; ``scenes`` and ``cluster`` only if there are any."""
        values = asdict(self)
        if not self.scenes:
            del values["scenes"]
        if self.cluster is None:
            del values["cluster"]
        return values

    def __str__(self) -> str:
        """Return a few lines that say where the result lies."""
        bands, rows, columns = self.out_shape
        lines = [
            f"Output    {shown(self.target)}",
            f"          {plural(bands, 'band')} of {rows:,} x {columns:,} {self.dtype}, "
            f"{size(self.bytes_written)} on disk, checked",
            f"Run       {self.seconds:.1f} s, {plural(self.tiles, 'tile')}, "
            f"{plural(self.blocks_decoded, 'block')} decoded",
        ]
        if self.cluster is not None:
            use = self.cluster
            lines.append(
                f"Cluster   {plural(use.parts, 'part')} by {plural(use.workers, 'worker')}, "
                f"{use.resumed:,} of them by an earlier run, {use.retries:,} retries"
            )
        if self.quicklook is not None:
            lines.insert(2, f"Picture   {shown(self.quicklook)}")
        lines += [f"Warning   {visible(text)}" for text in self.warnings]
        return "\n".join(lines)
