"""Jobs on dask.distributed clusters: tasks that write parts, survive their workers, and resume."""
