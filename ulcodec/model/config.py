"""Model configurations: flat frozen dataclasses, saved as JSON beside the weights."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ulcodec.errors import ModelError

PATCH_PX = 16
"""Pixels per side of one latent position."""

HYPER_PATCH_PX = 4 * PATCH_PX
"""Pixels per side of one position of the hyper-latent."""

N_SCALES = 64
"""Standard deviations that the prior chooses from."""

ACTIVATION_LIMIT = 127.0
"""Clamp on every activation of the prior, so that it fits a fixed-point number."""

HIDDEN_BITS = 4
"""Fraction bits of a block's hidden units, which have eight bits in integers: most products then are of bytes."""

MAX_WIDTH, MAX_BLOCKS, MAX_STRIDE = 2**14, 2**8, 2**4
"""Bounds on numbers of channels and blocks and on strides: networks of a hostile configuration would fill memory."""

WIDTHS = (
    "latent_channels", "hyper_channels", "width_8", "width_16", "prior_width", "hyper_width", "denoiser_width",
    "n_quality_anchors",
)  # fmt: skip
"""Fields of `ModelConfig` that cannot be 0."""

N_CHANNEL_GROUPS = 16
PHASE_ROWS, PHASE_COLUMNS = 2, 4
N_PHASES = PHASE_ROWS * PHASE_COLUMNS


def spread_reveal(passes: str = "12334444") -> tuple[str, ...]:
    """Make a reveal schedule whose passes are spread evenly over channels and positions.

    The default schedule reveals 1/8, 1/8, 1/4 and 1/2 of the elements. Returns one string per channel group (channel c
    belongs to group `c % 16`). Its character p is the pass, from 1, that codes the elements at spatial phase
    `p = 4 (row % 2) + column % 4`. All groups visit the phases in the same order, distant phases first. Their
    starting phases are spread evenly. `passes`: the pass of each phase, in the order of the visits.
    """
    order = ((0, 0), (1, 2), (0, 2), (1, 0), (0, 1), (1, 3), (0, 3), (1, 1))
    rows = []
    for group in range(N_CHANNEL_GROUPS):
        shift_row, shift_column = divmod(group * 5 % N_PHASES, PHASE_COLUMNS)
        phases = ["0"] * N_PHASES
        for (row, column), reveal_pass in zip(order, passes, strict=True):
            phase = (row + shift_row) % PHASE_ROWS * PHASE_COLUMNS + (column + shift_column) % PHASE_COLUMNS
            phases[phase] = reveal_pass
        rows.append("".join(phases))
    return tuple(rows)


@dataclass(frozen=True)
class ModelConfig:
    """Shapes of the codec's networks, and the meaning of quality.

    Widths are channels. `_8` and `_16` are the scales 1/8 and 1/16 of the picture. `lagrangian_low` and `_high` are the
    weights of `255^2 MSE` against bits per pixel at quality 0 and 1, log-linear in between. `prior_blocks`:
    residual blocks of the prior in each reveal pass, or in the one network of a `shared_prior`, which all passes use.
    `reveal`: see `spread_reveal`; training allows up to 8 passes, a file holds 4. `negative_slope`: slope of the hidden
    units of encoder and trunk below zero (0: ReLU).
    """

    name: str
    latent_channels: int
    hyper_channels: int
    width_8: int
    width_16: int
    encoder_blocks_8: int
    encoder_blocks_16: int
    decoder_blocks_16: int
    decoder_blocks_8: int
    prior_width: int
    prior_blocks: tuple[int, ...]
    hyper_width: int
    denoiser_width: int
    denoiser_blocks: int
    n_quality_anchors: int = 8
    lagrangian_low: float = 0.001
    lagrangian_high: float = 0.12
    reveal: tuple[str, ...] = spread_reveal()
    negative_slope: float = 0.0
    shared_prior: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            largest = MAX_BLOCKS if "blocks" in field.name else MAX_WIDTH
            if field.type in ("int", int) and not is_count(value, largest):
                raise ModelError(f"{field.name} must be a whole number from 0 to {largest}, got {value!r}")
        for name in WIDTHS:
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.latent_channels % N_CHANNEL_GROUPS:
            raise ModelError(f"latent_channels must be a multiple of {N_CHANNEL_GROUPS}, got {self.latent_channels}")
        if not 0 <= self.negative_slope < 1:
            raise ModelError(f"negative_slope must be at least 0 and below 1, got {self.negative_slope}")
        passes = {str(reveal_pass) for reveal_pass in range(1, N_PHASES + 1)}
        if len(self.reveal) != N_CHANNEL_GROUPS or any(len(r) != N_PHASES or set(r) - passes for r in self.reveal):
            expected = f"{N_CHANNEL_GROUPS} strings of {N_PHASES} digits from 1 to {N_PHASES}"
            raise ModelError(f"reveal must be {expected}, got {self.reveal}")
        phases = {"".join(sorted(phase)) for phase in zip(*self.reveal, strict=True)}
        if len(phases) > 1 or set(*phases) != set(map(str, self.reveal_passes)):
            raise ModelError(f"every pass of reveal must code equally many channels at every phase, got {self.reveal}")
        n_networks = 1 if self.shared_prior else len(self.reveal_passes)
        if len(self.prior_blocks) != n_networks or not all(is_count(n, MAX_BLOCKS) for n in self.prior_blocks):
            expected = f"{n_networks} numbers from 0 to {MAX_BLOCKS}"
            raise ModelError(f"prior_blocks must hold {expected}, got {self.prior_blocks}")

    @property
    def prior_networks(self) -> tuple[str, ...]:
        """Where the prior holds the network of each reveal pass: prefixes of the names of its parts."""
        if self.shared_prior:
            return ("",) * len(self.reveal_passes)
        return tuple(f"passes.{number}." for number in range(len(self.prior_blocks)))

    @property
    def encoder_halo(self) -> int:
        """Latent positions on each side that an element of the latent depends on."""
        return self.encoder_blocks_16 + -(-self.encoder_blocks_8 // 2)

    @property
    def decoder_halo(self) -> int:
        """Latent positions on each side that a pixel of the posterior mean depends on."""
        return self.decoder_blocks_16 + -(-self.decoder_blocks_8 // 2)

    @property
    def reveal_passes(self) -> range:
        """The passes, from 1 to the largest in `reveal`."""
        return range(1, int(max(max(row) for row in self.reveal)) + 1)

    def lagrangian(self, quality: float) -> float:
        """Weight of `255^2 MSE` against bits per pixel at `quality` in [0, 1]."""
        low, high = math.log(self.lagrangian_low), math.log(self.lagrangian_high)
        return math.exp(low + quality * (high - low))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelConfig":
        """Invert `to_json`. Raises ModelError for unknown or missing fields, and for anything but a dictionary."""
        if not isinstance(values, dict):
            raise ModelError(f"a model configuration must be an object, got {type(values).__name__}")
        names = {field.name for field in fields(cls)}
        if unknown := set(values) - names:
            raise ModelError(f"unknown fields in the model configuration: {', '.join(sorted(unknown))}")
        values = modernised(values)
        try:
            return cls(**{**values, **{name: tuple(values[name]) for name in ("prior_blocks", "reveal")}})
        except (TypeError, KeyError) as error:
            raise ModelError(f"incomplete model configuration: {error}") from error


def is_count(value: Any, largest: int) -> bool:
    """Whether a value is a whole number from 0 to `largest`."""
    return type(value) is int and 0 <= value <= largest


def check_transformer(width: Any, n_blocks: Any, head_size: Any, channels: Any) -> None:
    """Raise ModelError for sizes that no transformer on latents can have."""
    if not (is_count(channels, MAX_WIDTH) and channels):
        raise ModelError(f"the number of latent channels must be from 1 to {MAX_WIDTH}, got {channels}")
    if not (is_count(head_size, MAX_WIDTH) and head_size and head_size % 4 == 0):
        raise ModelError(f"the size of heads must be a multiple of 4 up to {MAX_WIDTH}, got {head_size}")
    if not (is_count(width, MAX_WIDTH) and width and width % head_size == 0):
        raise ModelError(f"the width must be a multiple of {head_size} up to {MAX_WIDTH}, got {width}")
    if not is_count(n_blocks, MAX_BLOCKS):
        raise ModelError(f"the number of blocks must be from 0 to {MAX_BLOCKS}, got {n_blocks}")


def check_dropout(dropout: Any) -> None:
    """Raise ModelError for anything but a probability."""
    if type(dropout) not in (int, float) or not 0 <= dropout <= 1:
        raise ModelError(f"dropout must be a number from 0 to 1, got {dropout}")


def modernised(values: Any) -> Any:
    """Convert the JSON of an older configuration; any other value stays as it is.

    The prior of `ModelConfig` was one network. `PaperConfig` had no strides, and base models had one level: both were
    for pictures only.
    """
    if not isinstance(values, dict):
        return values
    if "reveal" in values and isinstance(values.get("prior_blocks"), int):
        return {**values, "prior_blocks": [values["prior_blocks"]], "shared_prior": True}
    if "encoder_widths" in values:
        return {"strides": list(map(list, PICTURE_STRIDES)), "linear_paths": False, **values}
    if isinstance(values.get("base"), dict):
        return {**values, "base": {"n_axes": 2, "fine_width": 0, "fine_blocks": 0, **values["base"]}}
    return values


TINY = ModelConfig(
    name="tiny", latent_channels=32, hyper_channels=8, width_8=32, width_16=32,
    encoder_blocks_8=1, encoder_blocks_16=1, decoder_blocks_16=1, decoder_blocks_8=1,
    prior_width=32, prior_blocks=(1, 1, 1, 1), hyper_width=16, denoiser_width=16, denoiser_blocks=1,
)  # fmt: skip

NINTH_LAGRANGIAN = 0.001 * 120 ** (8 / 7)
"""Lagrangian of the ninth quality anchor: the ratio from the seventh to the eighth anchor, continued."""

SMALL = ModelConfig(
    name="small", latent_channels=512, hyper_channels=64, width_8=192, width_16=320,
    encoder_blocks_8=10, encoder_blocks_16=11, decoder_blocks_16=11, decoder_blocks_8=16,
    prior_width=256, prior_blocks=(4, 6, 8, 10), hyper_width=128, denoiser_width=96, denoiser_blocks=4,
    n_quality_anchors=9, lagrangian_high=NINTH_LAGRANGIAN, negative_slope=0.01,
)  # fmt: skip
"""The shipped model's configuration."""

BASE = ModelConfig(
    name="base", latent_channels=384, hyper_channels=64, width_8=320, width_16=512,
    encoder_blocks_8=6, encoder_blocks_16=6, decoder_blocks_16=8, decoder_blocks_8=8,
    prior_width=384, prior_blocks=(4, 6, 8, 10), hyper_width=192, denoiser_width=192, denoiser_blocks=6,
    n_quality_anchors=9, lagrangian_high=NINTH_LAGRANGIAN,
)  # fmt: skip


Stride = tuple[int, ...]
"""Positions along each axis that one position of the next stage covers: rows and columns, or frames, rows, columns."""


@dataclass(frozen=True)
class PaperConfig:
    """Shapes of the three networks of `ulcodec.model.paper`, for pictures or for clips.

    `strides`: those of the encoder's four stages. The decoder's three convolution stages and its middle have the same.
    Their number of axes is that of the data: 2 for pictures, 3 for clips. `decoder_blocks` counts the blocks of each
    stage, on the way down and again on the way up. `prior_width` and `middle_width` are multiples of `head_size`, which
    is a multiple of 4. Widths of convolutions are multiples of 4 below 128, and of 32 from 128 on. `linear_paths`: give
    encoder and decoder a linear transform beside their networks, see `ulcodec.model.linear_paths`.
    """

    name: str
    strides: tuple[Stride, Stride, Stride, Stride]
    encoder_widths: tuple[int, int, int, int]
    encoder_blocks: tuple[int, int, int, int]
    prior_width: int
    prior_blocks: int
    decoder_widths: tuple[int, int, int]
    decoder_blocks: int
    middle_width: int
    middle_blocks: int
    head_size: int
    latent_channels: int = 32
    decoder_dropout: float = 0.1
    linear_paths: bool = False

    @property
    def n_axes(self) -> int:
        """Axes of the data: 2 for pictures, 3 for clips."""
        return len(self.strides[0])

    @property
    def patch(self) -> tuple[int, ...]:
        """Extent of one latent position along each axis, in frames and pixels."""
        return tuple(map(math.prod, zip(*self.strides, strict=True)))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PaperConfig":
        """Invert `asdict` through JSON. Raises ModelError for unknown or missing fields, and as `check`."""
        try:
            tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            config = cls(**{**values, **tuples, "strides": tuple(map(tuple, values["strides"]))})
        except (TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"incomplete model configuration: {error}") from error
        config.check()
        return config

    def check(self) -> None:
        """Raise ModelError for values that no networks can have."""
        if len(self.strides) != 4 or {len(stride) for stride in self.strides} not in ({2}, {3}):
            raise ModelError(f"strides must be 4 lists of 2 or of 3 numbers, got {self.strides}")
        if not all(is_count(step, MAX_STRIDE) and step for stride in self.strides for step in stride):
            raise ModelError(f"strides must be whole numbers from 1 to {MAX_STRIDE}, got {self.strides}")
        for name, length in {"encoder_widths": 4, "encoder_blocks": 4, "decoder_widths": 3}.items():
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != length:
                raise ModelError(f"{name} must be {length} numbers, got {values}")
        check_transformer(self.prior_width, self.prior_blocks, self.head_size, self.latent_channels)
        check_transformer(self.middle_width, self.middle_blocks, self.head_size, self.latent_channels)
        widths = (*self.encoder_widths, *self.decoder_widths)
        if not all(is_count(width, MAX_WIDTH) and width and width % min(32, width // 4 or 32) == 0 for width in widths):
            raise ModelError(f"widths of convolutions must be multiples of 4, of 32 from 128 on, got {widths}")
        if not all(is_count(number, MAX_BLOCKS) for number in (*self.encoder_blocks, self.decoder_blocks)):
            raise ModelError(f"numbers of blocks must be from 0 to {MAX_BLOCKS}, got {self.encoder_blocks}")
        check_dropout(self.decoder_dropout)


PICTURE_STRIDES: tuple[Stride, Stride, Stride, Stride] = ((2, 2), (2, 2), (2, 2), (2, 2))

CLIP_STRIDES: tuple[Stride, Stride, Stride, Stride] = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))
"""4 in time, 8 in height and width, as in the paper. It does not state which stage reduces what."""

PAPER = PaperConfig(
    name="paper", strides=PICTURE_STRIDES, encoder_widths=(128, 256, 512, 512), encoder_blocks=(2, 2, 2, 3),
    prior_width=1024, prior_blocks=8, decoder_widths=(128, 256, 512), decoder_blocks=2, middle_width=1024,
    middle_blocks=8, head_size=64,
)  # fmt: skip

PAPER_VIDEO = replace(PAPER, name="paper-video", strides=CLIP_STRIDES)

PAPER_TINY = PaperConfig(
    name="paper_tiny", strides=PICTURE_STRIDES, encoder_widths=(16, 16, 32, 32), encoder_blocks=(1, 1, 1, 1),
    prior_width=32, prior_blocks=2, decoder_widths=(16, 16, 32), decoder_blocks=1, middle_width=32, middle_blocks=2,
    head_size=16,
)  # fmt: skip

TINY_VIDEO = PaperConfig(
    name="tiny-video", strides=CLIP_STRIDES, encoder_widths=(16, 32, 64, 64), encoder_blocks=(1, 1, 1, 1),
    prior_width=128, prior_blocks=4, decoder_widths=(16, 32, 64), decoder_blocks=1, middle_width=128, middle_blocks=4,
    head_size=32, latent_channels=16, linear_paths=True,
)  # fmt: skip
"""For a CPU."""
