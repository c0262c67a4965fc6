"""The command `inlier`, and `python -m inlier`. Ctrl-C while it is still being loaded ends it like later."""

import sys


def main() -> None:
    try:
        from inlier.cli import main as run
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
