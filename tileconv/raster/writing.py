"""What the rest of tileconv writes files with; all other modules are raster's own."""

from tileconv.raster.formats import FORMATS, FORMATS_IN_WORDS, Format, named_format, names_where
from tileconv.raster.fsync import freed_aside
from tileconv.raster.geotiff_parts import Assembly
from tileconv.raster.leftovers import describe_left, is_alive, remove, remove_left
from tileconv.raster.names import other_format_of, shortened
from tileconv.raster.part_files import (
    MARK,
    missing_parts,
    part_paths,
    parts_folder,
    restore,
    stored_bytes,
)
from tileconv.raster.sink import OutputSpec, Sink
from tileconv.raster.tag_model import Metadata
from tileconv.raster.tag_propagation import own_tags, propagate_tags, storable_crs
from tileconv.raster.targets import HTML_PAGE, PNG, REPORT, OwnFile, OwnFiles, Target, put

__all__ = [
    "FORMATS",
    "FORMATS_IN_WORDS",
    "HTML_PAGE",
    "MARK",
    "PNG",
    "REPORT",
    "Assembly",
    "Format",
    "Metadata",
    "OutputSpec",
    "OwnFile",
    "OwnFiles",
    "Sink",
    "Target",
    "describe_left",
    "freed_aside",
    "is_alive",
    "missing_parts",
    "named_format",
    "names_where",
    "other_format_of",
    "own_tags",
    "part_paths",
    "parts_folder",
    "propagate_tags",
    "put",
    "remove",
    "remove_left",
    "restore",
    "shortened",
    "storable_crs",
    "stored_bytes",
]
