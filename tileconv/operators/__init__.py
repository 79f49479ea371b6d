"""What to compute: each operator is one frozen value that answers `base.Operator`."""
