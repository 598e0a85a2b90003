"""Exact products of integers with 8-bit weights, and the choice of the fastest implementation on a device.

All implementations give the same integers. One that does not pass `is_exact` on a device is never used there.
"""

import time
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ulcodec.coding.fixed_point import ACTIVATION_BITS, LARGEST_ACTIVATION, Grid
from ulcodec.model.config import HIDDEN_BITS

LARGEST_HIDDEN = 255
MAX_WEIGHT = 127


class Activations(NamedTuple):
    """Fixed-point format of the inputs of a product: multiples of `2^-bits`, as integers in [least, largest]."""

    bits: int
    least: int
    largest: int


WIDE = Activations(ACTIVATION_BITS, -LARGEST_ACTIVATION, LARGEST_ACTIVATION)
HIDDEN = Activations(HIDDEN_BITS, 0, LARGEST_HIDDEN)
"""A block's hidden units: a byte without a sign."""

EXACT_FLOAT32 = 2**24
"""Sums of integers in float32 are exact, in any order, while none of them exceeds this."""

LARGEST_WEIGHT_SUM = EXACT_FLOAT32 // 128
"""Bound on `sum |w|` of a column of weights: products with halves of activations, which are at most 2^7, are exact."""

NORM_MARGIN = 0.998
"""Allowance for the rounding of the norms, which is below 2^-12 for up to 2^12 inputs."""

MIN_SHIFTED_WIDTH = 24
"""Grid width from which shifted products replace copied neighbourhoods: in narrow grids, borders cost more."""

ROWS_AT_ONCE = 2**11
"""Number of rows that go through several operations in turn, so that they stay in the cache."""

CUDA_MULTIPLE, CUDA_ROWS = 8, 32
"""Required multiples of `torch._int_mm` on CUDA: of the sides, and of the number of rows."""


class Product(Protocol):
    """Exact product of integers with a fixed weight, int8 [in, out].

    Takes x int32 [N, in] of the format that it was made for, `WIDE` or `HIDDEN`; returns int32 [N, out]. With a grid
    (h, w), where N is B h w, x is [N, in / 9], and each position's 3x3 neighbourhood is multiplied. For each column of
    the weight, `sum |w| (largest + 256)` must be below 2^31, and `sum |w|` below `LARGEST_WEIGHT_SUM`.
    """

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor: ...


class Int8Product:
    """int8 products, fast where the processor multiplies them natively.

    One product of `x - 128` for hidden units, two of `x = 256 high + low` for others.
    """

    def __init__(self, weight: Tensor, inputs: Activations = WIDE):
        self._n_out, self.is_cuda = weight.shape[1], weight.is_cuda
        self._of_128 = weight.sum(0, dtype=torch.int32) * 128 if inputs == HIDDEN else None
        self.weight = pad_to_multiples(weight, CUDA_MULTIPLE, CUDA_MULTIPLE) if self.is_cuda else weight

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if self._of_128 is not None:
            return self._product(_inputs((x - 128).to(torch.int8), grid, border=-128)).add_(self._of_128)
        high = self._product(_inputs((x + 128).bitwise_right_shift_(8).to(torch.int8), grid))
        low = self._product(_inputs(x.to(torch.int8), grid))  # integers wrap to their lowest byte
        return low.add_(high, alpha=256)

    def _product(self, x: Tensor) -> Tensor:
        if not self.is_cuda:
            return torch._int_mm(x, self.weight)
        return torch._int_mm(pad_to_multiples(x, CUDA_ROWS, CUDA_MULTIPLE), self.weight)[: len(x), : self._n_out]


class Float32Product:
    """One float32 product for rows whose sums cannot exceed 2^24, and two products of 8-bit halves for other rows.

    For hidden units, the weights alone can prove it for all rows. Otherwise: a sum of products, whole or partial, is at
    most `|x| |w|` (Cauchy-Schwarz). Activations of pictures keep that below 2^24 in more than 99 % of rows, although
    the largest legal activations would not. Halves always do, by the bounds of `Product`.
    If the process has set a lower precision inside float32 products, float64 is used. Other threads may rely on that
    setting, so it is only read: before the product, and after it in case another thread has changed it.
    """

    def __init__(self, weight: Tensor, inputs: Activations = WIDE):
        self.integers, self.weight = weight, weight.float()
        self._is_small = int(weight.abs().sum(0, dtype=torch.int64).max()) * inputs.largest <= EXACT_FLOAT32
        largest_norm = weight.double().norm(dim=0).max().clamp(min=1.0)
        self._largest_square = float((NORM_MARGIN * EXACT_FLOAT32 / largest_norm) ** 2)

    @cached_property
    def _in_float64(self) -> "Float64Product":
        return Float64Product(self.integers)

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if float32_is_float32(x.device):
            result = self._in_float32(x, grid)
            if float32_is_float32(x.device):
                return result
        return self._in_float64(x, grid)

    def _in_float32(self, x: Tensor, grid: Grid | None) -> Tensor:
        values = x.float()
        if self._is_small:
            return self.product(values, grid)
        squares = _inputs(torch.linalg.vector_norm(values, dim=1, keepdim=True).square_(), grid).sum(1)
        result = self.product(values, grid)
        large = (squares > self._largest_square).nonzero()[:, 0]
        if len(large):
            result[large] = self.by_halves(values[large] if grid is None else neighbourhoods_of(values, grid, large))
        return result

    def product(self, values: Tensor, grid: Grid | None) -> Tensor:
        if grid is None or grid[1] < MIN_SHIFTED_WIDTH:
            return (_inputs(values, grid) @ self.weight).to(torch.int32)
        return shifted_product(values, self.weight, grid).to(torch.int32)

    def by_halves(self, rows: Tensor) -> Tensor:
        high = ((rows + 128) / 256).floor_()
        low = rows - 256 * high
        return (low @ self.weight).to(torch.int32).add_((high @ self.weight).to(torch.int32), alpha=256)


class Float64Product:
    """One float64 product: integers below 2^53 are exact in any order of summation."""

    def __init__(self, weight: Tensor, inputs: Activations = WIDE):
        self.weight = weight.double()

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return (_inputs(x.double(), grid) @ self.weight).to(torch.int32)


class Int64Product:
    """The definition of the product: slow, and on CPUs only."""

    def __init__(self, weight: Tensor, inputs: Activations = WIDE):
        self.weight = weight.long()

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return (_inputs(x.long(), grid) @ self.weight).to(torch.int32)


PRODUCTS: dict[str, Callable[[Tensor, Activations], Product]] = {
    "float32": Float32Product,
    "int8": Int8Product,
    "float64": Float64Product,
    "int64": Int64Product,
}

DEFINITION = "int64"
"""Name of the product that is used where no other is exact; it is never timed, as float32 is faster."""


def pad_to_multiples(x: Tensor, row_multiple: int, column_multiple: int) -> Tensor:
    """Append zeros to [N, C] until both sides are multiples of the given numbers."""
    return F.pad(x, (0, -x.shape[1] % column_multiple, 0, -x.shape[0] % row_multiple))


def _inputs(x: Tensor, grid: Grid | None, border: int = 0) -> Tensor:
    """Return the inputs of each output: x [N, C] or, with a grid, its neighbourhoods [N, 9 C]."""
    return x if grid is None else neighbourhoods(x, grid, border)


def neighbourhoods(x: Tensor, grid: Grid, border: int = 0) -> Tensor:
    """Gather each position's 3x3 neighbourhood, with `border` outside the grid: [N, C] -> [N, 9 C]."""
    padded = _add_border(x, grid, border)
    picture, row, column, _ = padded.stride()
    # The three positions of a row are adjacent in memory, so one view can hold them.
    views = padded.as_strided((len(padded), *grid, 3, 3 * column), (picture, row, column, row, 1))
    return views.reshape(-1, 9 * column).contiguous()


def neighbourhoods_of(x: Tensor, grid: Grid, positions: Tensor) -> Tensor:
    """Gather the rows of `neighbourhoods` at some positions int64 [M]: [M, 9 C]."""
    padded = _add_border(x, grid)
    height, width = grid
    picture, cell = positions // (height * width), positions % (height * width)
    first = (picture * padded.shape[1] + cell // width) * padded.shape[2] + cell % width
    taps = torch.arange(3, device=x.device)
    offsets = (taps[:, None] * padded.shape[2] + taps).flatten()
    return padded.flatten(0, 2)[first[:, None] + offsets].flatten(1)


def _add_border(x: Tensor, grid: Grid, border: int = 0) -> Tensor:
    """Put `border` around each picture: [N, C] -> [B, h + 2, w + 2, C]."""
    x = x.reshape(-1, *grid, x.shape[1])
    padded = x.new_full((len(x), grid[0] + 2, grid[1] + 2, x.shape[3]), border)
    padded[:, 1:-1, 1:-1] = x
    return padded


def shifted_product(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Compute `neighbourhoods(x, grid) @ weight` without nine copies of x, as the sum of a product per tap."""
    padded = _add_border(x, grid)
    rows, n_columns, (n_in, n_out) = padded.flatten(0, 2), padded.shape[2], (x.shape[1], weight.shape[1])
    result = x.new_empty(len(rows), n_out)
    sums = result[: len(rows) - 2 * n_columns - 2]  # from the first neighbourhood to the last, with borders between
    for first in range(0, len(sums), ROWS_AT_ONCE):
        chunk = sums[first : first + ROWS_AT_ONCE]
        for tap in range(9):
            start = first + tap // 3 * n_columns + tap % 3
            tap_weight = weight[tap * n_in : (tap + 1) * n_in]
            torch.addmm(chunk, rows[start : start + len(chunk)], tap_weight, beta=tap > 0, out=chunk)
    return result.view(*padded.shape[:3], n_out)[:, : grid[0], : grid[1]].reshape(-1, n_out)


# Settings of torch that change a product


def exact_arithmetic(device: torch.device) -> torch.autocast:
    """Return a context without autocast, which would round the factors of float products."""
    return torch.autocast(device.type, enabled=False)


def float32_is_float32(device: torch.device) -> bool:
    """Whether float32 products have full precision: False if the process has set bfloat16 or TF32 in torch."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # before torch 2.9: one setting for all devices
        return torch.get_float32_matmul_precision() == "highest"
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")


# The choice of an implementation

CPU = torch.device("cpu")
TRIAL_GRID, TRIAL_CHANNELS = (16, 24), 128
"""Trial: one 3x3 layer over a picture of 384x256. A prior spends most of its time on such layers."""

TRIAL_ACTIVATION = 100
N_TRIAL_RUNS, N_SLOW_RUNS = 7, 2
"""Number of timed runs, and their number for a slow implementation. A first run is not counted: libraries compile their
kernels in it."""

SLOW, HOPELESS = 2.0, 10.0
"""Times relative to the best one so far from which an implementation gets `N_SLOW_RUNS`, or no run after the first."""


class Trial(NamedTuple):
    """Result for one implementation: whether it is exact here, and its time for the trial layer, None if not timed."""

    name: str
    is_exact: bool
    trial_ms: float | None


def choose_product(device: torch.device) -> str:
    """Return the name of the fastest implementation of `PRODUCTS` that is exact on this device."""
    timed = [(trial.trial_ms, trial.name) for trial in trials(device) if trial.is_exact and trial.trial_ms is not None]
    return min(timed)[1] if timed else DEFINITION


@lru_cache
def trials(device: torch.device) -> tuple[Trial, ...]:
    """Check and time every implementation of `PRODUCTS` on a device, once per process."""
    results: list[Trial] = []
    for name in PRODUCTS:
        if name == DEFINITION or not is_exact(name, device):
            results.append(Trial(name, name == DEFINITION, None))
            continue
        best_ms = min((trial.trial_ms for trial in results if trial.trial_ms is not None), default=float("inf"))
        results.append(Trial(name, True, _trial_ms(PRODUCTS[name], device, best_ms)))
    return tuple(results)


def _trial_ms(make_product: Callable[[Tensor, Activations], Product], device: torch.device, best_ms: float) -> float:
    """Return the shortest time of a few runs over the trial layer, with fewer runs if `best_ms` is much shorter.

    The activations have the magnitude of real ones.
    """
    generator = torch.Generator(CPU).manual_seed(0)
    shape = (TRIAL_GRID[0] * TRIAL_GRID[1], TRIAL_CHANNELS)
    x = _random_integers(TRIAL_ACTIVATION, shape, generator).to(device, torch.int32)
    weight = _random_integers(MAX_WEIGHT, (9 * TRIAL_CHANNELS, TRIAL_CHANNELS), generator)
    product = make_product(weight.to(device, torch.int8), WIDE)

    def run_ms() -> float:
        with exact_arithmetic(device):
            start = time.perf_counter()
            product(x, TRIAL_GRID)[-1:].cpu()  # synchronises with the device
            return 1000 * (time.perf_counter() - start)

    first_ms, runs_ms = run_ms(), [float("inf")]
    if first_ms > HOPELESS * best_ms:
        return first_ms
    while len(runs_ms) <= N_SLOW_RUNS or (len(runs_ms) <= N_TRIAL_RUNS and min(runs_ms) < SLOW * best_ms):
        runs_ms.append(run_ms())
    return min(runs_ms)


def _random_integers(largest: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw int64 within +-largest, on the CPU."""
    return torch.randint(-largest, largest + 1, shape, generator=generator, device=CPU)


def is_exact(name: str, device: torch.device) -> bool:
    """Compare an implementation with the definition on the CPU.

    Processors without native int8 products may sum them in 16 bits, which overflows.
    """
    for x, weight, inputs, expected in _examples():
        try:
            with exact_arithmetic(device):
                result = PRODUCTS[name](weight.to(device), inputs)(x.to(device))
        except RuntimeError:  # this build of torch has no such product
            return False
        if not torch.equal(result.cpu(), expected):
            return False
    return True


@lru_cache
def _examples() -> tuple[tuple[Tensor, Tensor, Activations, Tensor], ...]:
    """Return inputs, weights, format of the inputs, and products by the definition.

    The inputs are of all sizes, and the largest of both signs.
    """
    generator = torch.Generator(CPU).manual_seed(0)
    examples = []
    for inputs, n_positions, n_in, n_out in ((WIDE, 96, 1152, 128), (WIDE, 3, 640, 32), (HIDDEN, 96, 1152, 128)):
        x = _random_integers(inputs.largest, (n_positions, n_in), generator)
        x = (x >> torch.arange(n_positions, device=CPU)[:, None] % 12).clamp(min=inputs.least).to(torch.int32)
        weight = _random_integers(100, (n_in, n_out), generator).to(torch.int8)
        x[0], x[1] = inputs.largest, inputs.least
        weight[: n_in // 3, 0], weight[: n_in // 3, 1] = MAX_WEIGHT, -MAX_WEIGHT
        weight[n_in // 3 :, :2] = 0
        examples.append((x, weight, inputs, Int64Product(weight)(x)))
    return tuple(examples)
