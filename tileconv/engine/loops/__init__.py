"""The loop nests: which rows are packed, kept and summed up, strip by strip."""
