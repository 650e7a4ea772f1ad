"""``python -m histocast`` and ``histocast``: the command line, also where a library it needs is broken."""

from __future__ import annotations

import gc

# Most of what a short verb makes is its libraries, which stay: to look through them for garbage every 700 objects, and
# all of them at the end, takes a sixth of PREDICT's time for a small slide.
GARBAGE_EVERY = 5_000


def main() -> None:
    """See `histocast.cli.main`."""
    from histocast.failures import end_with

    try:
        from histocast.cli import main as run
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises when it is imported
        end_with(error)
    gc.set_threshold(GARBAGE_EVERY)
    try:
        run()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
