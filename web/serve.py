"""Serve a folder on this machine, with the headers that let a page use threads.

`python web/serve.py web/site` prints the address, and serves until it is interrupted.
"""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST, PORT = "127.0.0.1", 8000
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Browsers share memory between threads only on pages with these headers."""


class Handler(SimpleHTTPRequestHandler):
    """Serve files as `SimpleHTTPRequestHandler` does. `sent_headers`: sent with every one of them."""

    sent_headers = ISOLATION

    def end_headers(self) -> None:
        for name, value in {**self.sent_headers, "Cache-Control": "no-cache"}.items():
            self.send_header(name, value)
        super().end_headers()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=PORT, help="0 for any that is free")
    arguments = parser.parse_args()
    try:
        server = ThreadingHTTPServer((HOST, arguments.port), partial(Handler, directory=str(arguments.folder)))
    except OSError as error:
        sys.exit(f"port {arguments.port}: {error.strerror}; choose another one with --port")
    print(f"http://{HOST}:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
