"""Missing pixels: detected and replaced while rows are packed; sums normalized afterwards."""
