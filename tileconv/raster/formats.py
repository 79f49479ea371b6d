"""The one place where a format gets its writer."""

from tileconv.raster.cog import COGSink
from tileconv.raster.sink import GeoTIFFSink, OutputSpec, Sink


def open_sink(spec: OutputSpec) -> Sink:
    """Return what writes ``spec``."""
    if spec.driver == "Zarr":
        from tileconv.raster.zarr_store import ZarrSink  # noqa: PLC0415 - an extra, slow to import

        return ZarrSink(spec)
    return COGSink(spec) if spec.driver == "COG" else GeoTIFFSink(spec)
