"""Time the decoder in headless Chromium: milliseconds of the first picture and of later ones, and memory.

    python web/make_site.py web/site
    python -m benchmarks.browser --site web/site --sizes 768x512 4000x3000 --markdown TABLE

Every measurement is a new browser, and the rows take turns. The first picture includes fetching the model from this
machine and preparing it. Memory is the peak of the page's process.
"""

import argparse
import base64
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import ulcodec
from benchmarks.backends import parse_size
from benchmarks.report import progress, show_table
from ulcodec.bench.machine import cpu_name
from ulcodec.bench.pictures import find_pictures, fitted

ROOT = Path(__file__).parents[1]
QUALITY = 50
THREADS = (1, 2)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
WITHOUT_GPU = [*FLAGS, "--disable-gpu"]
COLUMNS = {"first_ms": "first, ms", "warm_ms": "later, ms", "peak_mib": "peak, MiB"}
DECODE = """
async ([file, nThreads, nRuns]) => {
  const { decode, settings } = await import("./ulcodec.js");
  Object.assign(settings, { nThreads, device: "cpu" });
  const data = Uint8Array.from(atob(file), (c) => c.charCodeAt(0));
  const times = [];
  for (let i = 0; i <= nRuns; i++) times.push((await decode(data)).milliseconds);
  return times;
}
"""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder on this machine: its address."""
    command = [sys.executable, str(ROOT / "web" / "serve.py"), str(site), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def renderers() -> set[int]:
    """Processes that show pages, by their numbers (Linux only)."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def peak_mib(process: int) -> float:
    """Peak resident memory of a process so far."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [peak_kib] = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak_kib) / 1024


def measure(driver: Any, address: str, data: bytes, n_threads: int, n_runs: int) -> dict[str, float]:
    """Decode a file in a new browser: the columns of the table."""
    before = renderers()
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=WITHOUT_GPU)
    page = browser.new_page()
    page.goto(address)
    first_ms, *warm_ms = page.evaluate(DECODE, [base64.b64encode(data).decode(), n_threads, n_runs])
    peak = max(peak_mib(process) for process in renderers() - before)
    browser.close()
    return {"first_ms": first_ms, "warm_ms": median(warm_ms or [first_ms]), "peak_mib": peak}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browser", description=str(__doc__).splitlines()[0])
    parser.add_argument("--site", type=Path, default=Path("web/site"), help="folder that web/make_site.py made")
    parser.add_argument("--images", type=Path, help="folder; its first picture is used (default: a sample picture)")
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=[(768, 512)], metavar="WxH", help="in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row, by turns")
    parser.add_argument("--runs", type=int, default=5, help="pictures after the first one")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    codec = ulcodec.load("small", device="cpu")
    table = []
    with served(options.site) as address, sync_playwright() as driver:
        for width, height in options.sizes:
            picture = fitted(find_pictures(options.images, limit=1)[0], width, height)
            data, size = codec.encode(picture.pixels, quality=QUALITY), f"{width}x{height}"
            rounds: list[list[Mapping[str, float]]] = []
            for number in range(options.rounds):
                progress(f"{size}, round {number + 1} of {options.rounds}")
                rounds.append([measure(driver, address, data, n_threads, options.runs) for n_threads in THREADS])
            for n_threads, turns in zip(THREADS, zip(*rounds, strict=True), strict=True):
                figures = [f"{median(turn[name] for turn in turns):.0f}" for name in COLUMNS]
                table.append([size, str(n_threads), *figures])
    progress(f"{options.rounds} rounds", last=True)
    header = ["picture", "threads", *COLUMNS.values()]
    print(cpu_name())
    show_table(header, table, options.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
