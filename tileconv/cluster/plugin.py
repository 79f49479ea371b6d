"""How a run reaches workers, those too that join later."""

from __future__ import annotations

import os
from typing import Any

from distributed import WorkerPlugin


class RunPlugin(WorkerPlugin):
    """Gives each worker the pickled work of a run, and its settings."""

    def __init__(self, key: str, packed: bytes, settings: dict[str, str]) -> None:
        self.name = f"tileconv-{key}"
        self._key, self._packed, self._settings = key, packed, settings

    def setup(self, worker: Any) -> None:
        """Set the environment first: GDAL and Numba look at it when they are loaded."""
        for name, value in self._settings.items():
            os.environ.setdefault(name, value)
        from tileconv.cluster.heap import keep_freed  # noqa: PLC0415
        from tileconv.cluster.worker import register  # noqa: PLC0415 - after the settings

        keep_freed()
        register(self._key, self._packed, worker.state.nthreads)

    def teardown(self, worker: Any) -> None:
        """Let go of the run."""
        del worker
        from tileconv.cluster.heap import release_freed  # noqa: PLC0415
        from tileconv.cluster.worker import forget  # noqa: PLC0415

        forget(self._key)
        release_freed()
