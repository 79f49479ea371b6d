"""Files: blocks, masks, grids, structure. It knows tiles and blocks, but no convolution."""
