"""FID and FVD on the command line: checks of `ulcodec eval`'s options, and two sets compared without a codec."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ulcodec.progress import tracked
from ulcodec_cli.common import print_fields, print_json, say
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from ulcodec.metrics.feature_networks import FeatureNetwork

N_FRAMES, LEAST_FRAMES = 16, 9
CODEC_OPTIONS = ("model", "against", "qualities", "crop")


def check_options(ctx: typer.Context) -> None:
    """Raise BadParameter for options of `ulcodec eval` that do not go together."""

    def given(name: str) -> bool:
        source = ctx.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    fid, fvd, reference = given("fid"), given("fvd"), given("reference")
    if fid and fvd:
        raise typer.BadParameter("--fid is for pictures and --fvd for videos: give one of them")
    if fvd and not reference:
        raise typer.BadParameter("--fvd compares videos with other videos: name those with --reference")
    if reference and not (fid or fvd):
        raise typer.BadParameter("--reference needs --fid or --fvd")
    needs = {"inception": fid, "i3d": fvd, "frames": fvd, "size": reference}
    for name, option in {"inception": "--fid", "i3d": "--fvd", "frames": "--fvd", "size": "--reference"}.items():
        if given(name) and not needs[name]:
            raise typer.BadParameter(f"--{name} needs {option}")
    if reference and (of_codec := [name for name in CODEC_OPTIONS if given(name)]):
        raise typer.BadParameter(f"--{of_codec[0]} does not apply with --reference, which compares without a codec")


def inception_network(path: Path | None) -> "FeatureNetwork":
    """Load the network of FID."""
    from ulcodec.devices import choose_device
    from ulcodec.metrics.feature_networks import inception

    return inception(path, choose_device("auto"))


def i3d_network(path: Path | None) -> "FeatureNetwork":
    """Load the network of FVD."""
    from ulcodec.devices import choose_device
    from ulcodec.metrics.feature_networks import i3d

    return i3d(path, choose_device("auto"))


def warn_of_few(count: int, n_features: int, measure: str) -> None:
    """Print a warning if there are too few samples for a covariance of full rank."""
    if count <= n_features:
        say(
            f"ulcodec: warning: {measure} of {count} samples with {n_features} features is biased: "
            "compare it only with results on as many samples",
            err=True,
        )


def compare_pictures(
    sources: list[str], reference: list[str], network: "FeatureNetwork", *, size_px: int | None, limit: int | None,
    json: bool,
) -> None:  # fmt: skip
    """Print the FID of pictures to those of a reference."""
    from ulcodec.metrics.sample_sets import picture_statistics

    _compare("fid", picture_statistics, sources, reference, network, json, size_px=size_px, limit=limit)


def compare_videos(
    sources: list[str], reference: list[str], network: "FeatureNetwork", *, size_px: int | None, limit: int | None,
    n_frames: int | None, json: bool,
) -> None:  # fmt: skip
    """Print the FVD of videos to those of a reference."""
    from ulcodec.metrics.sample_sets import clip_statistics

    options = {"n_frames": n_frames or N_FRAMES, "size_px": size_px, "limit": limit}
    _compare("fvd", clip_statistics, sources, reference, network, json, **options)


def _compare(
    measure: str, read: Any, sources: list[str], reference: list[str], network: "FeatureNetwork", json: bool,
    **options: int | None,
) -> None:  # fmt: skip
    from ulcodec.io.locations import as_source
    from ulcodec.io.sources import LeftOut
    from ulcodec.metrics import frechet_distance

    left_out = [LeftOut(), LeftOut()]
    with progress_bar("measuring"):
        samples, others = (
            read(map(as_source, names), network, left_out=counted, **options)
            for names, counted in tracked(list(zip((sources, reference), left_out, strict=True)), "set {} of {}")
        )
    for name, counted in zip(("samples", "reference"), left_out, strict=True):
        if counted:
            say(f"ulcodec: left out of the {name}: {counted}", err=True)
    warn_of_few(min(samples.n, others.n), samples.n_features, measure.upper())
    options.pop("limit")
    values = {
        measure: frechet_distance(samples, others),
        "n_samples": samples.n,
        "n_reference": others.n,
        "network": network.name,
        "n_features": samples.n_features,
        **options,
    }
    if json:
        print_json(values)
    else:
        print_fields({name: value for name, value in values.items() if value is not None})
