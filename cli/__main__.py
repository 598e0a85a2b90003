"""Entry point of the command line; an interrupt during the imports is handled like a later one."""

import atexit
import gc
import io
import signal
import sys

TERMINATED = 128 + signal.SIGTERM


def main() -> None:
    atexit.register(gc.freeze)  # skip the last garbage collection: 0.3 s once torch is imported
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that the terminal cannot show
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that temporary files are removed
    try:
        from ulcodec_cli.main import app

        app(prog_name="ulcodec")
    except KeyboardInterrupt:
        print("ulcodec: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
