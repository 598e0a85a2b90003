"""The integer prior and the hyper-decoder as torch modules in float32, for graphs that other runtimes compute exactly.

All values are integers. There are matrix products, products with powers of two, floor, clamps, sums and copies. No
partial sum exceeds 2^24, in any order, so that float32 arithmetic of every runtime gives the same integers as
`coding.integer_prior`. The modules prove that bound from the weights when they are made.

B pictures of h x w positions, N = B h w rows; C latent channels; Q = 101 quality levels. All tensors are float32 and
channels last, unless stated. Weights have the names and the order that they have in a model directory.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.coding.fixed_point import ACTIVATION_BITS, LARGEST_ACTIVATION, LARGEST_MEAN, MEAN_BITS
from ulcodec.coding.integer_layers import StoredIntegers, pixel_shuffle
from ulcodec.coding.integer_prior import hidden_format
from ulcodec.coding.products import EXACT_FLOAT32, NORM_MARGIN, WIDE, Activations
from ulcodec.errors import ModelError
from ulcodec.model.config import ModelConfig
from ulcodec.model.schedule import pass_phases

HIGH = 256
"""An integer x has the halves h and l in [-128, 127]: x = 256 h + l."""

LARGEST_RESULT = 2**22
"""Results of halves are clamped to it. Every later clamp is lower, also after the sums with a bias or a residual."""

LARGEST_TABLE = 2**20
"""Bound on the biases and offsets that are added to results: a clamped result stays beyond the clamp that follows."""


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split integers into their high and low halves."""
    high = torch.floor((x + HIGH / 2) * (1 / HIGH))
    return high, x - HIGH * high


class ExactLayer(nn.Module):
    """`IntegerLayer` in float32.

    Most rows take one product: a sum of products, whole or partial, is at most `|x| |w|` (Cauchy-Schwarz). Rows with a
    larger norm take the products of halves, whose sums cannot exceed 2^24: with `s = sum |w| < 2^17` and
    `32768 s + |start| < 2^31`, the sum of low halves is at most `128 (s + 1)`, and that of high halves, with their part
    of the start and the carry, at most `127 s + (2^31 - 32768 s) / 256 + 2^16 + 2`. Bytes have high halves of 0 and 1,
    so that `s + 2^23 + 2^16 + 2` is a bound.
    """

    weight: Tensor
    start: Tensor
    start_high: Tensor
    start_low: Tensor
    scale: Tensor
    scale_high: Tensor
    largest_square: Tensor

    def __init__(
        self,
        stored: StoredIntegers,
        name: str,
        out_bits: int = ACTIVATION_BITS,
        inputs: Activations = WIDE,
        columns: Tensor | None = None,
        largest_marks: int = 0,
    ):
        """Read a layer by its name. Raises ModelError as `StoredIntegers.layer`, which checks the limits above.

        `columns`: the columns of its weight that are multiplied, by default all. `largest_marks`: bound on what
        `forward` gets as marks, which are sums of other columns.
        """
        super().__init__()
        layer = stored.layer(name, out_bits, inputs)
        start, shift = layer.start.double(), layer.shift.double()
        used = (layer.weight if columns is None else layer.weight[columns]).double()
        sums, norms = used.abs().sum(0), used.norm(dim=0).clamp(min=1)
        start_high, start_low = halves(start)
        added = start.abs() + HIGH * largest_marks
        self.is_proven = bool((sums * inputs.largest + added).max() <= EXACT_FLOAT32)
        largest_norm = ((NORM_MARGIN * EXACT_FLOAT32 - added) / norms).min().clamp(min=0)
        self.register_buffer("weight", layer.weight.T.float().contiguous())
        constants = {
            "start": start,
            "start_high": start_high,
            "start_low": start_low,
            "scale": 2.0**-shift,
            "scale_high": HIGH * 2.0**-shift,
            "largest_square": largest_norm**2,
        }
        for key, value in constants.items():
            self.register_buffer(key, value.float(), persistent=False)

    def forward(self, x: Tensor, squares: Tensor | None = None, marks: Tensor | None = None) -> Tensor:
        """Map x [N, in] to [N, out]. `marks` [N, out]: 1/256 of what is added to the sums of products.

        `squares` [N]: sums of the squares of x, if they are known.
        """
        weight = self.matrix()
        sums = F.linear(x, weight, self.start)
        result = torch.floor((sums if marks is None else sums + HIGH * marks) * self.scale)
        if self.is_proven:
            return result
        squares = (x * x).sum(1) if squares is None else squares
        large = (squares > self.largest_square).nonzero()[:, 0]
        marks = None if marks is None else marks.index_select(0, large)
        return result.index_copy(0, large, self._by_halves(x.index_select(0, large), weight, marks))

    def matrix(self) -> Tensor:
        """Return the columns of the weight that are multiplied."""
        return self.weight

    def _by_halves(self, x: Tensor, weight: Tensor, marks: Tensor | None) -> Tensor:
        """Compute `floor((256 H + L) / 2^shift)` from the products H and L of the halves, without that sum."""
        x_high, x_low = halves(x)
        high, low = F.linear(x_high, weight, self.start_high), F.linear(x_low, weight, self.start_low)
        carry = torch.floor(low * (1 / HIGH))
        high = high + carry if marks is None else high + carry + marks
        high = torch.floor((high * self.scale_high).clamp(-LARGEST_RESULT, LARGEST_RESULT))
        return high + torch.floor((low - HIGH * carry) * self.scale)

    def on_grid(self, x: Tensor) -> Tensor:
        """Map x [B, h, w, C] to [B, h, w, out]: positions, or 3x3 neighbourhoods if the weight has 9 C inputs."""
        if x.shape[3] == self.weight.shape[1]:
            rows: Tensor = self(x.flatten(0, 2))
        else:
            squares = None if self.is_proven else neighbourhoods((x * x).sum(3, keepdim=True)).sum(3).flatten()
            rows = self(neighbourhoods(x).flatten(0, 2), squares)
        return rows.view(*x.shape[:3], -1)


def neighbourhoods(x: Tensor) -> Tensor:
    """Gather each position's 3x3 neighbourhood, with zeros outside the grid: [B, h, w, C] -> [B, h, w, 9 C]."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    taps = [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return torch.cat(taps, dim=3)


def quality_table(stored: StoredIntegers, name: str) -> Tensor:
    """Read a table of biases, [Q, ...]. Raises ModelError if a value is too large."""
    table = stored.table(name)
    if int(table.abs().max()) > LARGEST_TABLE:
        raise ModelError(f"table.{name}: values up to {int(table.abs().max())} exceed {LARGEST_TABLE}")
    return table.float()


class ExactStem(ExactLayer):
    """First layer of a prior network, which sees a constant instead of the inputs that mark known elements."""

    marks: Tensor

    def __init__(self, config: ModelConfig, stored: StoredIntegers, name: str):
        layer, n_channels = stored.layer(name), config.latent_channels
        marks = known_marks(config, layer.weight[n_channels : 2 * n_channels])
        columns = torch.cat((torch.arange(n_channels), torch.arange(2 * n_channels, layer.n_in)))
        super().__init__(stored, name, columns=columns, largest_marks=int(marks.abs().max()))
        self.n_channels = n_channels
        self.register_buffer("marks", marks.float(), persistent=False)

    def matrix(self) -> Tensor:
        return torch.cat((self.weight[:, : self.n_channels], self.weight[:, 2 * self.n_channels :]), dim=1)

    def at(self, cell: Tensor, x: Tensor) -> Tensor:
        """Map x [B, h, w, in] to [B, h, w, out]. cell int64 [h, w]: row of `known_marks`."""
        marks = F.embedding(cell, self.marks).expand(*x.shape[:3], -1).flatten(0, 2)
        rows: Tensor = self(x.flatten(0, 2), marks=marks)
        return rows.view(*x.shape[:3], -1)


def known_marks(config: ModelConfig, weight: Tensor) -> Tensor:
    """Sum the weights int8 [C, out] of the marks of known elements: int64 [8 passes, out].

    Row `8 (reveal_pass - 1) + 4 (row % 2) + column % 4` is that of a position in a reveal pass.
    """
    phases = [phase for reveal_pass in config.reveal_passes for phase in pass_phases(config, reveal_pass)]
    return torch.stack([weight[phase.known].sum(0, dtype=torch.int64) for phase in phases])


class ExactBlock(nn.Module):
    """`IntegerBlock` in float32."""

    bias: Tensor

    def __init__(self, stored: StoredIntegers, name: str, hidden: Activations):
        super().__init__()
        self.reduce = ExactLayer(stored, f"prior.{name}.reduce")
        self.spatial = ExactLayer(stored, f"prior.{name}.spatial", hidden.bits, hidden)
        self.expand = ExactLayer(stored, f"prior.{name}.expand", ACTIVATION_BITS, hidden)
        self.register_buffer("bias", quality_table(stored, f"{name}.bias"))
        self.largest, self.shift = hidden.largest, ACTIVATION_BITS - hidden.bits

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """Map x [B, h, w, width] to the same shape; quality int64 [1]."""
        hidden = self.reduce.on_grid(x) + F.embedding(quality, self.bias)
        if self.shift:
            hidden = torch.floor((hidden + (1 << self.shift >> 1)) * 2.0**-self.shift)
        hidden = self.spatial.on_grid(hidden.clamp(0, self.largest)).clamp(0, self.largest)
        return (x + self.expand.on_grid(hidden)).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


class ExactPrior(nn.Module):
    """`IntegerNetwork` in float32: the network of a reveal pass, or of all passes of a shared prior."""

    bias: Tensor

    def __init__(self, config: ModelConfig, stored: StoredIntegers, prefix: str):
        super().__init__()
        n_blocks, hidden = config.prior_blocks[config.prior_networks.index(prefix)], hidden_format(config)
        self.has_successor = not config.shared_prior and prefix != config.prior_networks[-1]
        quality_table(stored, "scale_offset")  # the host adds it to the results of the scale head
        self.stem = ExactStem(config, stored, f"prior.{prefix}stem")
        self.register_buffer("bias", quality_table(stored, f"{prefix}bias"))
        self.blocks = nn.ModuleList(ExactBlock(stored, f"{prefix}blocks.{i}", hidden) for i in range(n_blocks))
        self.mean_head = ExactLayer(stored, f"prior.{prefix}mean_head", MEAN_BITS)
        self.scale_head = ExactLayer(stored, f"prior.{prefix}scale_head")

    def forward(
        self, estimate: Tensor, hyper_features: Tensor, cell: Tensor, quality: Tensor, carried: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the results of mean head and scale head, [B, h, w, C].

        If a later pass reads them, return also the features [B, h, w, width].

        estimate [B, h, w, C]: `scale_latent` of known elements, 0 for others; hyper_features [B, h, w, hyper_width];
        cell int64 [h, w]: see `known_marks`; quality int64 [1]: level; carried [B, h, w, width]: features of the pass
        before. The results are clamped to +-`LARGEST_MEAN`, which changes no mean and no table index.
        """
        inputs = [estimate, hyper_features] if carried is None else [estimate, hyper_features, carried]
        x = (self.stem.at(cell, torch.cat(inputs, dim=3)) + F.embedding(quality, self.bias)).clamp(
            0, LARGEST_ACTIVATION
        )
        for block in self.blocks:
            x = block(x, quality)
        hidden = x.clamp(0, LARGEST_ACTIVATION)
        mean, scale = (
            head.on_grid(hidden).clamp(-LARGEST_MEAN, LARGEST_MEAN) for head in (self.mean_head, self.scale_head)
        )
        return (mean, scale, x) if self.has_successor else (mean, scale)


class ExactHyperDecoder(nn.Module):
    """`IntegerHyperDecoder` in float32, from scaled activations."""

    def __init__(self, stored: StoredIntegers):
        super().__init__()
        self.stem, self.up_32, self.up_16 = (ExactLayer(stored, f"hyper.{name}") for name in ("stem", "up_32", "up_16"))

    def forward(self, hyper: Tensor) -> Tensor:
        """Map hyper [B, h, w, C_hyper], scaled by `scale_latent`, to features [B, 4 h, 4 w, hyper_width]."""
        x = pixel_shuffle(self.stem.on_grid(hyper).clamp(0, LARGEST_ACTIVATION))
        x = pixel_shuffle(self.up_32.on_grid(x).clamp(0, LARGEST_ACTIVATION))
        return self.up_16.on_grid(x).clamp(0, LARGEST_ACTIVATION)
