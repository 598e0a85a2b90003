"""Layers in integer arithmetic, and the checks that prove them exact before they run.

Activations are multiples of 1/256 within +-127. In priors with a network for each pass, a block's hidden units are
bytes, multiples of 1/16. Weights have 8 bits and a power-of-two scale per output channel.
`StoredIntegers.layer` proves from the weights that no sum leaves 32 bits. Between matrix products there are only
additions, products with integers, right shifts that round, and clamps, in int32 and int64. Any way to compute the
matrix products will do, as long as it is exact (`products.py`).
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ulcodec.coding.fixed_point import ACTIVATION_BITS, FACTOR_BITS, LARGEST_ACTIVATION, MAX_LATENT, Grid
from ulcodec.coding.products import LARGEST_WEIGHT_SUM, MAX_WEIGHT, ROWS_AT_ONCE, WIDE, Activations, Product
from ulcodec.errors import ModelError

MAX_EXPONENT = 18
"""Bound on the exponent of a layer's power-of-two scale, for channels of very small weights."""

Integers = Mapping[str, Tensor]


def shift_and_round(x: Tensor, shift: int) -> Tensor:
    """Compute `floor(x / 2^shift + 1/2)` of integers, shift >= 1."""
    return (x + (1 << (shift - 1))) >> shift


def clamp_(x: Tensor) -> Tensor:
    """Clamp activations to +-`LARGEST_ACTIVATION`, in place: new memory costs more than the arithmetic on it."""
    return x.clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def clamp_relu_(x: Tensor) -> Tensor:
    """Apply ReLU and clamp to `LARGEST_ACTIVATION`, in place."""
    return x.clamp_(0, LARGEST_ACTIVATION)


def scale_latent(latent_16: Tensor, factor: Tensor) -> Tensor:
    """Turn a latent [N, C] in sixteenths of a bin into activations int32 [N, C], by an integer factor [C]."""
    product = latent_16.clamp(-MAX_LATENT, MAX_LATENT) * factor
    return clamp_(shift_and_round(product, FACTOR_BITS)).to(torch.int32)


def pixel_shuffle(x: Tensor) -> Tensor:
    """Rearrange [B, h, w, 4 C] to [B, 2 h, 2 w, C], as torch's `pixel_shuffle(2)` does with channels first."""
    pictures, height, width, channels = x.shape
    quarters = x.reshape(pictures, height, width, channels // 4, 2, 2).permute(0, 1, 4, 2, 5, 3)
    return quarters.reshape(pictures, 2 * height, 2 * width, channels // 4)


class IntegerLayer:
    """Matrix product with 8-bit weights, whose result has the resolution that the shifts give (usually 1/256).

    weight int8 [in, out]; start (bias and rounding) and shift int32 [out]; `inputs`: format of the inputs.
    `StoredIntegers.layer` checks their limits.
    """

    def __init__(
        self,
        weight: Tensor,
        start: Tensor,
        shift: Tensor,
        make_product: Callable[[Tensor, Activations], Product],
        inputs: Activations,
    ):
        self.weight, self.start, self.shift = weight, start, shift
        self._make_product, self._inputs = make_product, inputs

    @property
    def n_in(self) -> int:
        return self.weight.shape[0]

    @property
    def n_out(self) -> int:
        return self.weight.shape[1]

    @cached_property
    def _product(self) -> Product:
        """Made on first use: some layers only serve `select`."""
        return self._make_product(self.weight, self._inputs)

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map x int32 [N, in] to int32 [N, out]. With a grid: on 3x3 neighbourhoods."""
        return self.sums(x, grid).bitwise_right_shift_(self.shift)

    def sums(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Compute as `__call__`, but do not shift, so that sums of several parts of the inputs can be added."""
        return self._product(x, grid).add_(self.start)

    def on_grid(self, x: Tensor) -> Tensor:
        """Map [B, h, w, C] to [B, h, w, out].

        The layer sees 3x3 neighbourhoods, or single positions if its weight has C inputs.
        """
        grid = None if x.shape[-1] == self.n_in else (x.shape[1], x.shape[2])
        return self(x.flatten(0, 2), grid).view(*x.shape[:3], -1)

    def select(self, inputs: Tensor, outputs: Tensor | slice, start: Tensor | None = None) -> "IntegerLayer":
        """Return the layer from some inputs to some outputs. `start` [out] replaces the layer's start."""
        start = self.start if start is None else start
        weight = self.weight[inputs][:, outputs].contiguous()
        return IntegerLayer(weight, start[outputs], self.shift[outputs], self._make_product, self._inputs)

    def beside(self, other: "IntegerLayer") -> "IntegerLayer":
        """Merge with another layer of the same inputs: its outputs follow this layer's."""
        weight = torch.cat((self.weight, other.weight), dim=1)
        start, shift = torch.cat((self.start, other.start)), torch.cat((self.shift, other.shift))
        return IntegerLayer(weight, start, shift, self._make_product, self._inputs)


class IntegerBlock:
    """`PriorBlock` in integers. `hidden`: format of its hidden units."""

    def __init__(self, stored: "StoredIntegers", name: str, hidden: Activations):
        self.reduce = stored.layer(f"prior.{name}.reduce")
        self.spatial = stored.layer(f"prior.{name}.spatial", hidden.bits, hidden)
        self.expand = stored.layer(f"prior.{name}.expand", ACTIVATION_BITS, hidden)
        self._largest, self._shift = hidden.largest, ACTIVATION_BITS - hidden.bits
        self._bias = stored.table(f"{name}.bias") + (1 << self._shift >> 1)  # with what rounds the shifted sum

    def __call__(self, x: Tensor, quality: int) -> Tensor:
        """Map x int32 [B, h, w, C] to the same shape."""
        rows, grid = x.flatten(0, 2), (x.shape[1], x.shape[2])

        def reduce(rows: Tensor) -> Tensor:
            hidden = self.reduce(rows).add_(self._bias[quality])
            return (hidden.bitwise_right_shift_(self._shift) if self._shift else hidden).clamp_(0, self._largest)

        def expand(hidden: Tensor, rows: Tensor) -> Tensor:
            return clamp_(self.expand(hidden).add_(rows))

        hidden = self.spatial(_in_chunks(reduce, rows), grid).clamp_(0, self._largest)
        return _in_chunks(expand, hidden, rows).view(x.shape)


def _in_chunks(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply a function of rows, [N, ...] -> [N, out], to chunks of rows that fit into the cache of a CPU."""
    if inputs[0].is_cuda or len(inputs[0]) <= ROWS_AT_ONCE:
        return function(*inputs)
    chunks = zip(*(torch.split(x, ROWS_AT_ONCE) for x in inputs), strict=True)
    first = function(*next(chunks))
    result = first.new_empty(len(inputs[0]), *first.shape[1:])
    targets = iter(torch.split(result, ROWS_AT_ONCE))
    next(targets).copy_(first)
    for target, chunk in zip(targets, chunks, strict=True):
        target.copy_(function(*chunk))
    return result


class StoredIntegers(NamedTuple):
    """The integers of a model directory, the way to multiply with them (of `PRODUCTS`), and a device."""

    tensors: Integers
    make_product: Callable[[Tensor, Activations], Product]
    device: torch.device

    def layer(self, name: str, out_bits: int = ACTIVATION_BITS, inputs: Activations = WIDE) -> IntegerLayer:
        """Load a layer whose outputs have `out_bits` fraction bits.

        Raises ModelError if it is incomplete, or if its sums may leave 32 bits.
        """
        try:
            weight, bias, exponent = (self.tensors[f"{name}.{part}"] for part in ("weight", "bias", "exponent"))
        except KeyError as error:
            raise ModelError(f"the coding weights lack {error}; export the model again") from error
        bias, shift = bias.long(), exponent.long() + inputs.bits - out_bits
        if bool((shift < 0).any() or (shift > 30).any() or weight.min() < -MAX_WEIGHT or weight.max() > MAX_WEIGHT):
            raise ModelError(f"{name}: a weight or an exponent is out of range; export the model again")
        rounding = (1 << shift) >> 1
        weight_sums = weight.abs().sum(1, dtype=torch.int64)
        # Bounds every partial sum: products of high bytes and of low bytes, bias and rounding.
        largest = weight_sums * (inputs.largest + 256) + bias.abs() + rounding
        if int(largest.max()) >= 2**31 or int(weight_sums.max()) >= LARGEST_WEIGHT_SUM:
            raise ModelError(f"{name}: sums may leave 32 bits, up to {int(largest.max())}; export the model again")
        # A copy: the transpose of one input channel counts as contiguous, and torch._int_mm misreads its strides.
        weight = weight.to(self.device, torch.int8).T.clone(memory_format=torch.contiguous_format)
        start, shift = ((bias + rounding).to(self.device, torch.int32), shift.to(self.device, torch.int32))
        return IntegerLayer(weight, start, shift, self.make_product, inputs)

    def table(self, name: str, dtype: torch.dtype = torch.int32) -> Tensor:
        """Load a table with one row per quality level. Raises ModelError if it is missing."""
        if f"table.{name}" not in self.tensors:
            raise ModelError(f"the coding weights lack the table {name}; export the model again")
        return self.tensors[f"table.{name}"].to(self.device, dtype)
