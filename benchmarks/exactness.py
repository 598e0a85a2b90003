"""Check that coding gives the same integers everywhere: over threads, instruction sets, backends and devices.

    python -m benchmarks.exactness --markdown table.md --python OTHER_ENVIRONMENT/bin/python

Every row of the table is a new process under one configuration. It decodes the files of `--files`, codes their latents
again, and hashes all decoded latents and all coded bytes. The float networks are left out: a file's meaning does not
depend on them. Rows of onnxruntime run with torch made absent.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "codec" / "golden"


class Configuration(NamedTuple):
    """A row of the table: environment variables and options of the worker, and its interpreter."""

    name: str
    environment: Mapping[str, str] = MappingProxyType({})
    options: tuple[str, ...] = ()
    python: str = sys.executable


def in_onnxruntime(name: str, *options: str) -> Configuration:
    """A row of onnxruntime."""
    return Configuration(f"onnxruntime, {name}", options=("--backend", "onnxruntime", *options))


CONFIGURATIONS = (
    Configuration("1 thread", options=("--threads", "1")),
    Configuration("2 threads", options=("--threads", "2")),
    Configuration("oneDNN off", options=("--no-mkldnn",)),
    *(Configuration(f"oneDNN up to {isa}", {"ONEDNN_MAX_CPU_ISA": isa}) for isa in ("SSE41", "AVX2", "AVX512_CORE")),
    *(Configuration(f"ATen {level}", {"ATEN_CPU_CAPABILITY": level}) for level in ("default", "avx2", "avx512")),
    *(Configuration(f"MKL up to {isa}", {"MKL_ENABLE_INSTRUCTIONS": isa}) for isa in ("SSE4_2", "AVX2", "AVX512")),
    Configuration("MKL compatible code path", {"MKL_CBWR": "COMPATIBLE"}),
    Configuration("batch of 8", options=("--batch", "8")),
    Configuration("tiles of 5x5 positions", options=("--tile", "5")),
    *(Configuration(f"{name} products", options=("--product", name)) for name in ("float32", "float64", "int64")),
    Configuration("range coder in plain Python", options=("--no-constriction",)),
    in_onnxruntime("1 thread", "--threads", "1"),
    in_onnxruntime("2 threads", "--threads", "2"),
    in_onnxruntime("graphs not optimised", "--no-optimisation"),
    in_onnxruntime("batch of 8", "--batch", "8"),
    in_onnxruntime("tiles of 5x5 positions", "--tile", "5"),
)


def in_batches(prior: Any, batch: int) -> Any:
    """A prior that runs on `batch` copies of the picture and returns the result for the last one."""
    import numpy as np

    class BatchPrior:
        def __getattr__(self, name: str) -> Any:
            return getattr(prior, name)

        def begin(self, hyper_16: Any, quality: int, grid: tuple[int, int]) -> Any:
            return prior.begin(np.tile(hyper_16, (batch, 1)), quality, grid)

        def __call__(self, outer_16: Any, state: Any, tile: Any) -> Any:
            copies = prior(np.tile(outer_16, (batch, 1, 1, 1)), state, tile)
            return copies.each(lambda part: part[-1:])

    return BatchPrior()


def work(
    files: list[Path],
    model: str,
    device: str,
    batch: int | None = None,
    tile: int | None = None,
    backend: Any = "torch",
    n_threads: int | None = None,
) -> dict[str, str]:
    """Run one process: versions, and the SHA-256 of decoded latents and of coded segments. Exits on a lossless file.

    `n_threads`: threads of onnxruntime.
    """
    import ulcodec
    from ulcodec.codec.image import latent_grid
    from ulcodec.codec.pixels import in_bins
    from ulcodec.coding.latents import encode_latent, hyper_grid
    from ulcodec.format.container import Container
    from ulcodec.info import is_sequence

    codec = ulcodec.load(model, device=device, backend=backend, n_threads=n_threads)
    coders = []
    for coder in (codec.coder, codec.residual_coder):
        coder.prior.tile = tile or coder.prior.tile
        coders.append(replace(coder, prior=in_batches(coder.prior, batch)) if batch else coder)
    codec = replace(codec, coder=coders[0], residual_coder=coders[1])
    decoded_digest, coded_digest = hashlib.sha256(), hashlib.sha256()
    for file in files:
        data = file.read_bytes()
        if is_sequence(data):
            for latents, bytes_again in coded_again(codec, data):
                digest_latents(decoded_digest, latents)
                coded_digest.update(bytes_again)
            continue
        container = Container.from_bytes(data)
        if container.is_lossless:
            sys.exit(f"error: {file} is lossless and holds no latents; name other files with --files")
        grid = latent_grid(container)
        latents = codec.decode_latents(container)
        digest_latents(decoded_digest, latents)
        y, hyper = in_bins(latents.y_16, grid)[0], in_bins(latents.hyper_16, hyper_grid(grid))[0]
        coded = encode_latent(codec.coder, y, hyper, container.header.quality)
        coded_digest.update(b"".join(coded.segments) + coded.symbol_check.to_bytes(2, "big"))
    return {
        **(torch_record(codec) if backend == "torch" else onnxruntime_record()),
        "product": codec.coder.prior.product,
        "decoded": decoded_digest.hexdigest(),
        "coded": coded_digest.hexdigest(),
    }


def torch_record(codec: Any) -> dict[str, str]:
    import torch

    return {
        "backend": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name(codec.device) if codec.device.type == "cuda" else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def onnxruntime_record() -> dict[str, str]:
    return {"backend": f"onnxruntime {version('onnxruntime')}", "device": platform.machine(), "cpu_capability": "none"}


def digest_latents(digest: Any, latents: Any) -> None:
    """Add a latent and its hyper-latent to a hash."""
    for part in latents:
        digest.update(part.astype("<i8").tobytes())


def coded_again(codec: Any, data: bytes) -> Iterator[tuple[Any, bytes]]:
    """Decode the latents of a sequence, and code them again: the latents and the payload of each frame."""
    from ulcodec.codec.pixels import grid_of, in_bins
    from ulcodec.coding.latents import encode_frames, hyper_grid

    video = codec.decode_video(data)
    grid = grid_of(video.format.height, video.format.width)
    for latents, is_residual, quality in video.latents():
        y, hyper = in_bins(latents.y_16, grid), in_bins(latents.hyper_16, hyper_grid(grid))
        [frame] = encode_frames(codec.residual_coder if is_residual else codec.coder, y, hyper, quality)
        yield latents, frame.payload + frame.symbol_check.to_bytes(2, "big")


def worker(arguments: argparse.Namespace) -> None:
    if arguments.no_constriction:
        make_absent("constriction")
    if arguments.backend == "torch":
        set_up_torch(arguments)
    else:
        make_absent("torch")
    if arguments.no_optimisation:
        switch_off_optimisation()
    result = work(
        arguments.files, arguments.model, arguments.device, arguments.batch, arguments.tile, arguments.backend,
        arguments.threads,
    )  # fmt: skip
    print(json.dumps(result))


def make_absent(package: str) -> None:
    """Let imports of a package fail."""
    sys.modules[package] = None  # type: ignore[assignment]


def set_up_torch(arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.no_mkldnn:
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    if arguments.product:
        from ulcodec.coding import integer_prior

        vars(integer_prior)["choose_product"] = lambda device: arguments.product


def switch_off_optimisation() -> None:
    """Let onnxruntime compute all graphs node by node."""
    import onnxruntime

    make_options = onnxruntime.SessionOptions

    def plain_options() -> Any:
        options = make_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    onnxruntime.SessionOptions = plain_options


def run(configuration: Configuration, files: list[Path], model: str) -> dict[str, str]:
    """Run a configuration. Raises RuntimeError with the worker's last line if it fails."""
    command = [configuration.python, "-m", "benchmarks.exactness", "--worker", "--model", model]
    command += [*configuration.options, "--files", *map(str, files)]
    finished = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **configuration.environment}
    )
    if finished.returncode:
        raise RuntimeError(f"{configuration.name}: {finished.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(finished.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=Path, nargs="+", default=sorted(GOLDEN.glob("*.ulc")), help=".ulc files")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--python", action="append", default=[], help="interpreter of another environment; repeatable")
    parser.add_argument("--cuda", action="store_true", help="add a row for the GPU")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--backend", default="torch", help=argparse.SUPPRESS)
    parser.add_argument("--no-mkldnn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--product", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--no-constriction", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-optimisation", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return

    from benchmarks.report import write_text
    from ulcodec.bench.tables import markdown_table, text_table

    others = tuple(Configuration(f"other environment {i + 1}", python=path) for i, path in enumerate(arguments.python))
    cuda = (Configuration("CUDA", options=("--device", "cuda")),) if arguments.cuda else ()
    header = ("configuration", "backend", "device", "ATen", "products", "latents", "bytes")
    rows = []
    for configuration in (*CONFIGURATIONS, *others, *cuda):
        result = run(configuration, arguments.files, arguments.model)
        rows.append(
            (
                configuration.name, result["backend"], result["device"], result["cpu_capability"],
                result["product"], result["decoded"][:12], result["coded"][:12],
            )
        )  # fmt: skip
    print(text_table(header, rows))
    if arguments.markdown:
        write_text(arguments.markdown, markdown_table(header, rows) + "\n")
    if len({row[-2:] for row in rows}) != 1:
        sys.exit("the configurations differ")


if __name__ == "__main__":
    main()
