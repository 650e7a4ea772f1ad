"""``python -m histocast`` and ``histocast``: the command line, also where a library it needs is broken."""

from __future__ import annotations


def main() -> None:
    """See `histocast.cli.main`."""
    from histocast.failures import end_with

    try:
        from histocast.cli import main as run
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises when it is imported
        end_with(error)
    run()


if __name__ == "__main__":
    main()
