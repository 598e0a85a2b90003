"""Time the encoding of a collection: a plain loop, and the command line with workers of both engines.

python -m benchmarks.bulk --images photos/ -o bulk.json
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import progress, write_text
from ulcodec.bench.machine import run_record
from ulcodec.bench.pictures import find_pictures
from ulcodec.bench.tables import text_table, to_json

WIDTH_PX, HEIGHT_PX = 256, 192
JPEG_QUALITY = 95

LOOP = """
import sys, torch, ulcodec
from pathlib import Path
torch.set_num_threads(1)
source, out, model = sys.argv[1:]
codec = ulcodec.load(model)
for file in sorted(Path(source).iterdir()):
    (Path(out) / file.name).with_suffix(".ulc").write_bytes(codec.encode(file))
"""

COMMAND = ("-m", "ulcodec_cli", "encode", "--threads", "1")
WAYS = {
    "plain loop": None,
    "this process": (),
    "1 worker of Ray": ("--engine", "ray", "--jobs", "1"),
    "2 processes": ("--jobs", "2"),
    "2 workers of Ray": ("--engine", "ray", "--jobs", "2"),
}


def make_collection(photographs: Sequence[np.ndarray], folder: Path, count: int) -> None:
    """Write random crops of photographs as JPEG files."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = photographs[number % len(photographs)]
        top = generator.integers(0, pixels.shape[0] - HEIGHT_PX + 1)
        left = generator.integers(0, pixels.shape[1] - WIDTH_PX + 1)
        crop = Image.fromarray(pixels[top : top + HEIGHT_PX, left : left + WIDTH_PX])
        crop.save(folder / f"{number:05d}.jpg", quality=JPEG_QUALITY)


def seconds_of(options: tuple[str, ...] | None, source: Path, model: str) -> float:
    """Encode a folder in a process of its own; return the seconds from its start to its end."""
    with tempfile.TemporaryDirectory() as out:
        if options is None:
            command = ["-c", LOOP, str(source), out, model]
        else:
            command = [*COMMAND, *options, str(source), "-o", f"{out}/", "--model", model]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started_s = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started_s


def measure(name: str, single: Path, collection: Path, model: str) -> dict[str, Any]:
    """Time a way: with one picture, and with all. The difference gives the rate."""
    count = len(list(collection.iterdir()))
    progress(name, last=True)
    start_s, whole_s = (seconds_of(WAYS[name], folder, model) for folder in (single, collection))
    rate = (count - 1) / (whole_s - start_s)
    return {"way": name, "one_picture_s": start_s, "all_pictures_s": whole_s, "pictures_per_s": rate}


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=description)
    parser.add_argument("--images", type=Path, help="folder of photographs (default: sample pictures)")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--pictures", type=int, default=1000, help="size of the collection")
    parser.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    options = parser.parse_args(arguments)
    pictures = [picture.pixels for picture in find_pictures(options.images)]
    photographs = [pixels for pixels in pictures if pixels.shape[0] >= HEIGHT_PX and pixels.shape[1] >= WIDTH_PX]
    ways = [way for way in WAYS if "Ray" not in way or find_spec("ray")]
    with tempfile.TemporaryDirectory() as folder:
        single, collection = Path(folder) / "one", Path(folder) / "all"
        make_collection(photographs, single, 1)
        make_collection(photographs, collection, options.pictures)
        rows = [measure(way, single, collection, options.model) for way in ways]
    heads = ["way", "one picture, s", "all, s", "pictures a second"]
    cells = [
        [row["way"], f"{row['one_picture_s']:.1f}", f"{row['all_pictures_s']:.1f}", f"{row['pictures_per_s']:.1f}"]
        for row in rows
    ]
    print(text_table(heads, cells))
    if options.output:
        record = run_record(["python", "-m", "benchmarks.bulk", *arguments])
        sizes = {"n_pictures": options.pictures, "width": WIDTH_PX, "height": HEIGHT_PX}
        write_text(options.output, to_json({"run": record, **sizes, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1:])
