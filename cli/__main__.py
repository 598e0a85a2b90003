"""Entry of the command line: an interrupt during the imports is answered like a later one."""

import atexit
import gc
import sys


def main() -> None:
    atexit.register(gc.freeze)  # no search for cycles in what ends with the process: 0.3 s once torch is imported
    try:
        from ulcodec_cli.main import app

        app(prog_name="ulcodec")
    except KeyboardInterrupt:
        print("ulcodec: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
