"""Exact products of integers with 8-bit weights, and which way of computing them is fastest on the machine at hand.

All ways give the same integers; a way that does not pass `is_exact` on a device is never taken there, however fast.
"""

import time
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ulcodec.model.prior import ACTIVATION_LIMIT

ACTIVATION_BITS = 8
LARGEST_ACTIVATION = int(ACTIVATION_LIMIT) << ACTIVATION_BITS
MAX_WEIGHT = 127

EXACT_FLOAT32 = 2**24
"""Sums of integers in float32 are exact, in any order, while none of them exceeds this."""

NORM_MARGIN = 0.998
"""Covers the rounding of the norms themselves, below 2^-12 for up to 2^12 inputs."""

LEAST_SHIFTED_WIDTH = 24
"""Of a grid whose neighbourhoods are not copied side by side: in narrow ones the borders would cost more."""

ROWS_AT_ONCE = 2**11
"""What goes through several operations in turn, so that it stays in the cache."""

CUDA_MULTIPLE, CUDA_ROWS = 8, 32
"""What `torch._int_mm` asks of sides, and of the number of rows, on CUDA."""

Grid = tuple[int, int]


class Product(Protocol):
    """Exact product of integers with a weight of its own, int8 [in, out].

    Takes x int32 [N, in] within +-`LARGEST_ACTIVATION`, returns int32 [N, out]. With a grid (h, w), N being B h w, x is
    [N, in / 9] and the product is that of each position's 3x3 neighbourhood. The weight's columns must keep
    `sum |w| (LARGEST_ACTIVATION + 256)` below 2^31.
    """

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor: ...


class Int8Product:
    """`x = 256 high + low`, both int8, and two int8 products: fast where the processor multiplies int8 natively."""

    def __init__(self, weight: Tensor):
        self.n_out, self.is_cuda = weight.shape[1], weight.is_cuda
        self.weight = padded_to(weight, CUDA_MULTIPLE, CUDA_MULTIPLE) if self.is_cuda else weight

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        high = self.product(side_by_side((x + 128).bitwise_right_shift_(8).to(torch.int8), grid))
        low = self.product(side_by_side(x.to(torch.int8), grid))  # integers wrap to their lowest byte
        return low.add_(high, alpha=256)

    def product(self, x: Tensor) -> Tensor:
        if not self.is_cuda:
            return torch._int_mm(x, self.weight)
        return torch._int_mm(padded_to(x, CUDA_ROWS, CUDA_MULTIPLE), self.weight)[: len(x), : self.n_out]


class Float32Product:
    """One float32 product where no sum can exceed 2^24, two products of 8-bit halves for the other rows.

    A sum of products, whole or partial, is at most `|x| |w|` (Cauchy-Schwarz). Activations of pictures keep that below
    2^24 in more than 99 % of rows, although the largest activations that are allowed would not. Halves always do:
    `sum |w| < 2^16` by the bound that `Product` asks for, and a half is at most 2^7. Where the process has asked for
    less precision inside float32 products, float64 stands in: a setting that other threads may rely on is not ours to
    change, and one that another thread changes meanwhile is seen afterwards.
    """

    def __init__(self, weight: Tensor):
        self.integers, self.weight = weight, weight.float()
        largest_norm = weight.double().norm(dim=0).max().clamp(min=1.0)
        self.largest_square = float((NORM_MARGIN * EXACT_FLOAT32 / largest_norm) ** 2)

    @cached_property
    def in_float64(self) -> "Float64Product":
        return Float64Product(self.integers)

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if float32_is_float32(x.device):
            result = self.in_float32(x, grid)
            if float32_is_float32(x.device):
                return result
        return self.in_float64(x, grid)

    def in_float32(self, x: Tensor, grid: Grid | None) -> Tensor:
        values = x.float()
        squares = side_by_side(torch.linalg.vector_norm(values, dim=1, keepdim=True).square_(), grid).sum(1)
        result = self.product(values, grid)
        large = (squares > self.largest_square).nonzero()[:, 0]
        if len(large):
            result[large] = self.by_halves(values[large] if grid is None else neighbourhoods_of(values, grid, large))
        return result

    def product(self, values: Tensor, grid: Grid | None) -> Tensor:
        if grid is None or grid[1] < LEAST_SHIFTED_WIDTH:
            return (side_by_side(values, grid) @ self.weight).to(torch.int32)
        return shifted_product(values, self.weight, grid).to(torch.int32)

    def by_halves(self, rows: Tensor) -> Tensor:
        high = ((rows + 128) / 256).floor_()
        low = rows - 256 * high
        return (low @ self.weight).to(torch.int32).add_((high @ self.weight).to(torch.int32), alpha=256)


class Float64Product:
    """Integers below 2^53 in float64: exact in every order of summation."""

    def __init__(self, weight: Tensor):
        self.weight = weight.double()

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return (side_by_side(x.double(), grid) @ self.weight).to(torch.int32)


class Int64Product:
    """The definition: slow, and on CPU only."""

    def __init__(self, weight: Tensor):
        self.weight = weight.long()

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return (side_by_side(x.long(), grid) @ self.weight).to(torch.int32)


PRODUCTS: dict[str, Callable[[Tensor], Product]] = {
    "float32": Float32Product,
    "int8": Int8Product,
    "float64": Float64Product,
    "int64": Int64Product,
}

DEFINITION = "int64"
"""Taken where nothing else is exact, and never timed: float32 products are faster."""


def padded_to(x: Tensor, row_multiple: int, column_multiple: int) -> Tensor:
    """Append zeros until both sides of [N, C] are multiples."""
    return F.pad(x, (0, -x.shape[1] % column_multiple, 0, -x.shape[0] % row_multiple))


def side_by_side(x: Tensor, grid: Grid | None) -> Tensor:
    """The inputs of each output: x [N, C] as it is or, with a grid, [N, 9 C]."""
    return x if grid is None else neighbourhoods(x, grid)


def neighbourhoods(x: Tensor, grid: Grid) -> Tensor:
    """[N, C] -> [N, 9 C]: each position's 3x3 neighbourhood, zeros outside the grid."""
    padded = bordered(x, grid)
    picture, row, column, _ = padded.stride()
    # The three positions of a row lie side by side in memory already. Those of a single column would overlap in a view.
    views = padded.as_strided((len(padded), *grid, 3, 3 * column), (picture, row, column, row, 1))
    return views.reshape(-1, 9 * column).contiguous()


def neighbourhoods_of(x: Tensor, grid: Grid, positions: Tensor) -> Tensor:
    """Rows of `neighbourhoods`: of some positions int64 [M], [M, 9 C]."""
    padded = bordered(x, grid)
    height, width = grid
    picture, cell = positions // (height * width), positions % (height * width)
    first = (picture * padded.shape[1] + cell // width) * padded.shape[2] + cell % width
    taps = torch.arange(3, device=x.device)
    offsets = (taps[:, None] * padded.shape[2] + taps).flatten()
    return padded.flatten(0, 2)[first[:, None] + offsets].flatten(1)


def bordered(x: Tensor, grid: Grid) -> Tensor:
    """[N, C] -> [B, h + 2, w + 2, C], zeros around each picture."""
    x = x.reshape(-1, *grid, x.shape[1])
    padded = x.new_zeros(len(x), grid[0] + 2, grid[1] + 2, x.shape[3])
    padded[:, 1:-1, 1:-1] = x
    return padded


def shifted_product(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """`neighbourhoods(x, grid) @ weight`, without nine copies of x: a product for each tap, added up."""
    padded = bordered(x, grid)
    rows, n_columns, (n_in, n_out) = padded.flatten(0, 2), padded.shape[2], (x.shape[1], weight.shape[1])
    result = x.new_empty(len(rows), n_out)
    sums = result[: len(rows) - 2 * n_columns - 2]  # from the first neighbourhood to the last, borders between them
    for first in range(0, len(sums), ROWS_AT_ONCE):
        own = sums[first : first + ROWS_AT_ONCE]
        for tap in range(9):
            start = first + tap // 3 * n_columns + tap % 3
            part = weight[tap * n_in : (tap + 1) * n_in]
            torch.addmm(own, rows[start : start + len(own)], part, beta=tap > 0, out=own)
    return result.view(*padded.shape[:3], n_out)[:, : grid[0], : grid[1]].reshape(-1, n_out)


# Settings of torch that would change a product


def exact_arithmetic(device: torch.device) -> torch.autocast:
    """Shut out autocast, which would round the factors of float products."""
    return torch.autocast(device.type, enabled=False)


def float32_is_float32(device: torch.device) -> bool:
    """False if the process has asked torch for bfloat16 or TF32 inside float32 products."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # before torch 2.9: one setting for all devices
        return torch.get_float32_matmul_precision() == "highest"
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")


# The choice

CPU = torch.device("cpu")
TRIAL_GRID, TRIAL_CHANNELS = (16, 24), 128
"""One 3x3 layer over a picture of 384x256: what a prior spends most of its time on, in about a millisecond."""

TRIAL_ACTIVATION = 100
N_TRIAL_RUNS, N_LEAST_RUNS = 7, 2
SLOW, HOPELESS = 2.0, 10.0
"""A way that takes so many times as long as the best before it gets only the least number of runs, or none after the
first, which does not count: libraries compile their kernels in it."""


class Trial(NamedTuple):
    """What was found of one way: whether it is exact here, and milliseconds for the trial layer, None if untimed."""

    name: str
    is_exact: bool
    trial_ms: float | None


def choose_product(device: torch.device) -> str:
    """The fastest way of `PRODUCTS` that is exact on this device."""
    timed = [(trial.trial_ms, trial.name) for trial in trials(device) if trial.is_exact and trial.trial_ms is not None]
    return min(timed)[1] if timed else DEFINITION


@lru_cache
def trials(device: torch.device) -> tuple[Trial, ...]:
    """Try every way of `PRODUCTS` on a device, once a process."""
    found: list[Trial] = []
    for name in PRODUCTS:
        if name == DEFINITION or not is_exact(name, device):
            found.append(Trial(name, name == DEFINITION, None))
            continue
        best_ms = min((trial.trial_ms for trial in found if trial.trial_ms is not None), default=float("inf"))
        found.append(Trial(name, True, trial_ms(PRODUCTS[name], device, best_ms)))
    return tuple(found)


def trial_ms(multiply: Callable[[Tensor], Product], device: torch.device, rival_ms: float = float("inf")) -> float:
    """Shortest of a few runs over one layer, activations as pictures have them. Fewer where the rival is far ahead."""
    generator = torch.Generator(CPU).manual_seed(0)
    shape = (TRIAL_GRID[0] * TRIAL_GRID[1], TRIAL_CHANNELS)
    x = random_integers(TRIAL_ACTIVATION, shape, generator).to(device, torch.int32)
    weight = random_integers(MAX_WEIGHT, (9 * TRIAL_CHANNELS, TRIAL_CHANNELS), generator)
    product = multiply(weight.to(device, torch.int8))

    def run_ms() -> float:
        with exact_arithmetic(device):
            start = time.perf_counter()
            product(x, TRIAL_GRID)[-1:].cpu()  # waits for the device
            return 1000 * (time.perf_counter() - start)

    first_ms, runs_ms = run_ms(), [float("inf")]
    if first_ms > HOPELESS * rival_ms:
        return first_ms
    while len(runs_ms) <= N_LEAST_RUNS or (len(runs_ms) <= N_TRIAL_RUNS and min(runs_ms) < SLOW * rival_ms):
        runs_ms.append(run_ms())
    return min(runs_ms)


def random_integers(largest: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """int64 within +-largest, on the CPU."""
    return torch.randint(-largest, largest + 1, shape, generator=generator, device=CPU)


def is_exact(name: str, device: torch.device) -> bool:
    """Compare a way of multiplying with the definition on the CPU. Processors without native int8 products may add
    them in 16 bits, and overflow there."""
    for x, weight, expected in examples():
        try:
            with exact_arithmetic(device):
                found = PRODUCTS[name](weight.to(device))(x.to(device))
        except RuntimeError:  # this build of torch has no such product
            return False
        if not torch.equal(found.cpu(), expected):
            return False
    return True


@lru_cache
def examples() -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Inputs, weights and products by the definition: random integers of all sizes, and the largest of both signs."""
    generator = torch.Generator(CPU).manual_seed(0)
    found = []
    for n_positions, n_in, n_out in ((96, 1152, 128), (3, 640, 32)):
        x = random_integers(LARGEST_ACTIVATION, (n_positions, n_in), generator)
        x = (x >> torch.arange(n_positions, device=CPU)[:, None] % 12).to(torch.int32)
        weight = random_integers(100, (n_in, n_out), generator).to(torch.int8)
        x[0], x[1] = LARGEST_ACTIVATION, -LARGEST_ACTIVATION
        weight[: n_in // 3, 0], weight[: n_in // 3, 1] = MAX_WEIGHT, -MAX_WEIGHT
        weight[n_in // 3 :, :2] = 0
        found.append((x, weight, Int64Product(weight)(x)))
    return tuple(found)
