"""Pure planning: output tile -> exact input window, touched blocks, price."""
