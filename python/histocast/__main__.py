"""``python -m histocast``."""

from histocast.cli import main

main()
