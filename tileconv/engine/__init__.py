"""Compiled loops, and the choice between them."""
