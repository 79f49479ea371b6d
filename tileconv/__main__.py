"""``python -m tileconv``, and what the command ``tileconv`` calls."""

import sys


def main() -> None:
    """Run the command line; an interrupt while it is imported is as quiet as any other."""
    try:
        from tileconv.cli import main as command  # noqa: PLC0415

        command()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; no output was left unfinished.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
