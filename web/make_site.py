"""Put together the folder that a web server sends: page, module, onnxruntime-web, and models.

`python web/make_site.py web/site --model small` needs npm, which fetches onnxruntime-web, and the packages of
`ulcodec[export]`.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from ulcodec.errors import UlcError
from ulcodec.export.web_models import publish_model

WEB = Path(__file__).parent
PAGE = ("index.html", "page.css", "page.js")
RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files of onnxruntime-web: a browser fetches the first three, or with WebGPU the others."""


def build_site(site: Path, models: list[str]) -> None:
    """Write page, module, runtime and models to a folder. Raises OSError, CalledProcessError if npm fails, UlcError."""
    subprocess.run(["npm", "ci"], cwd=WEB, check=True, stdout=subprocess.DEVNULL)
    runtime = site / "onnxruntime"
    runtime.mkdir(parents=True, exist_ok=True)
    for file in (*sorted((WEB / "src").glob("*.js")), *(WEB / name for name in PAGE)):
        shutil.copyfile(file, site / file.name)
    for name in RUNTIME:
        shutil.copyfile(WEB / "node_modules" / "onnxruntime-web" / "dist" / name, runtime / name)
    for model in models:
        publish_model(model, site / "models")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="folder to make")
    parser.add_argument("--model", action="append", help="model or model directory; may be given several times")
    arguments = parser.parse_args()
    try:
        build_site(arguments.site, arguments.model or ["small"])
    except (OSError, subprocess.CalledProcessError, UlcError) as error:
        sys.exit(f"web/make_site.py: {error}")


if __name__ == "__main__":
    main()
