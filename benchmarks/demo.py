"""Encode and decode a photograph with the `ulcodec` command, and print what it took: `make demo`.

The photographs come with scikit-image: an astronaut (NASA), a cup of coffee and a cat, all free of restrictions.
The files stay in the folder `demo`, to look at.
"""

import argparse
import json
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ulcodec.bench.pictures import SAMPLES
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db

QUALITIES = (20, 50, 80)


def ulcodec(*arguments: str | Path) -> dict[str, Any]:
    """Run the installed command and return the JSON that it prints; exit if it fails."""
    command = [Path(sys.executable).with_name("ulcodec"), *arguments, "--force", "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if finished.returncode:
        sys.exit(finished.returncode)
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", choices=SAMPLES, default=SAMPLES[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the files")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    options = parser.parse_args()

    options.out.mkdir(exist_ok=True)
    original = options.out / f"{options.picture}.png"
    with as_file(files("skimage.data") / original.name) as picture:
        shutil.copyfile(picture, original)
    pixels = load_image(original).pixels
    print(f"{original}: {pixels.shape[1]}x{pixels.shape[0]}, {original.stat().st_size} bytes as PNG")
    print(f"{'quality':>7} {'bytes':>8} {'bits/pixel':>10} {'PSNR dB':>8} {'encode ms':>9} {'decode ms':>9}  file")
    for quality in QUALITIES:
        coded = original.with_name(f"{options.picture}-q{quality}.ulc")
        decoded = coded.with_suffix(".png")
        common = ("--model", options.model)
        encoding = ulcodec("encode", original, "-o", coded, "-q", str(quality), *common)
        decoding = ulcodec("decode", coded, "-o", decoded, *common)
        print(
            f"{quality:>7} {encoding['file_bytes']:>8} {encoding['bits_per_pixel']:>10.3f}"
            f" {psnr_db(pixels, load_image(decoded).pixels):>8.2f}"
            f" {encoding['encode_ms']:>9.0f} {decoding['decode_ms']:>9.0f}  {coded}"
        )
    print("Times: the first picture of a fresh process, without the start of Python and the loading of the model.")


if __name__ == "__main__":
    main()
