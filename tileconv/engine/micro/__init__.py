"""The innermost steps, written for LLVM: register tiles and how their results are stored."""
