"""Entry of the command line: an interrupt during the imports is answered like a later one."""

import sys


def main() -> None:
    try:
        from ulcodec_cli.main import app
    except KeyboardInterrupt:
        print("ulcodec: interrupted", file=sys.stderr)
        sys.exit(130)
    app(prog_name="ulcodec")


if __name__ == "__main__":
    main()
