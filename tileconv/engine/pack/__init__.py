"""Packing: rows of pixels become rows of floats, in which neighbouring outputs lie side by side."""
