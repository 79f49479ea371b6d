"""``python -m tileconv``."""

from tileconv.cli import main

main()
