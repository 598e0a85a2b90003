"""Products of integers: inexact ones are refused, and the fastest exact one is chosen."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ulcodec.coding import products
from ulcodec.coding.products import (
    HIDDEN,
    LARGEST_ACTIVATION,
    LARGEST_HIDDEN,
    PRODUCTS,
    WIDE,
    Activations,
    Float32Product,
    Grid,
    Int8Product,
    Int64Product,
    Product,
    choose_product,
    exact_arithmetic,
    float32_is_float32,
    is_exact,
    neighbourhoods,
    neighbourhoods_of,
    pad_to_multiples,
    shifted_product,
    trials,
)

CPU = torch.device("cpu")
EXACT = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not is_exact(name, CPU), reason=f"{name} products are not exact on this processor"),
    )
    for name in PRODUCTS
]
GRIDS = (None, (7, 30), (3, 5), (1, 1), (6, 1), (2, 24))


def inputs(grid: Grid | None, batch: int, n_channels: int = 48) -> Tensor:
    """Draw rows of all sizes, including the largest of both signs."""
    generator = torch.Generator().manual_seed(0)
    n_rows = batch * (grid[0] * grid[1] if grid else 60)
    x = torch.randint(-LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, (n_rows, n_channels), generator=generator)
    x >>= torch.arange(n_rows)[:, None] % 13
    x[0] = LARGEST_ACTIVATION
    x[-1] = -LARGEST_ACTIVATION
    return x.to(torch.int32)


def weights(n_in: int, n_out: int = 24) -> Tensor:
    weight = torch.randint(-127, 128, (n_in, n_out), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    weight[:, 0], weight[:, 1] = 127, -127
    return weight


def native_int8(a: Tensor, b: Tensor) -> Tensor:
    """Compute `torch._int_mm` as a processor does that multiplies int8 exactly."""
    return (a.long() @ b.long()).int()


@pytest.fixture(autouse=True)
def forget_trials() -> Iterator[None]:
    trials.cache_clear()
    yield
    trials.cache_clear()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_every_product_equals_the_definition(name: str, grid: Grid | None) -> None:
    for batch, activations in itertools.product((1, 3), (WIDE, HIDDEN)):
        x, weight = inputs(grid, batch), weights(48 if grid is None else 9 * 48)
        x = x.clamp(activations.least, activations.largest)
        result = PRODUCTS[name](weight, activations)(x, grid)
        assert result.dtype == torch.int32
        assert torch.equal(result, Int64Product(weight)(x, grid))


def test_self_test_accepts_exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", native_int8)
    assert all(is_exact(name, CPU) for name in PRODUCTS)


def test_self_test_refuses_sums_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: Tensor, b: Tensor) -> Tensor:
        """Compute as `vpmaddubsw` does: pairs of unsigned times signed products, clamped to 16 bits."""
        pairs = (a.int() + 128).unflatten(1, (-1, 2))[..., None] * b.int().unflatten(0, (-1, 2))
        return pairs.sum(2).clamp(-(2**15), 2**15 - 1).sum(1, dtype=torch.int32) - 128 * b.sum(0, dtype=torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not is_exact("int8", CPU)
    assert choose_product(CPU) != "int8"


def test_self_test_refuses_products_that_the_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("not implemented for this device")

    monkeypatch.setattr(torch, "_int_mm", missing)
    assert not is_exact("int8", CPU)


def test_float32_uses_halves_only_for_rows_where_one_product_may_be_inexact(monkeypatch: pytest.MonkeyPatch) -> None:
    halved: list[int] = []
    by_halves = Float32Product.by_halves

    def counting(self: Float32Product, rows: Tensor) -> Tensor:
        halved.append(len(rows))
        return by_halves(self, rows)

    monkeypatch.setattr(Float32Product, "by_halves", counting)
    weight = weights(100, 2)
    product = Float32Product(weight)
    bound = 2**24 / float(weight.double().norm(dim=0).max()) / 10  # of equal activations, by Cauchy-Schwarz
    x = torch.tensor([[int(0.99 * bound)], [int(1.01 * bound)], [1 - LARGEST_ACTIVATION], [3]]).int().repeat(1, 100)
    assert torch.equal(product(x), Int64Product(weight)(x))
    assert halved == [2]
    one_product = product.product(x.float(), None)
    assert not torch.equal(one_product, Int64Product(weight)(x)), (
        "one product must be inexact for this test to mean anything"
    )


@pytest.mark.parametrize(("n_in", "is_small"), [(500, True), (540, False)])
def test_hidden_units_need_one_float32_product_where_the_weights_prove_it(
    n_in: int, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^24 is 518 products of the largest weight and the largest hidden unit."""
    x, weight = torch.full((3, n_in), LARGEST_HIDDEN, dtype=torch.int32), weights(n_in, 2)
    hidden_product = Float32Product(weight, HIDDEN)
    if is_small:
        monkeypatch.setattr(torch.linalg, "vector_norm", None)
    assert torch.equal(hidden_product(x), Int64Product(weight)(x))


def test_padding_for_cuda_changes_no_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA, `torch._int_mm` needs sides that are multiples of 8, and more than 16 rows."""

    def checking_sides(a: Tensor, b: Tensor) -> Tensor:
        assert len(a) > 16
        assert not any(side % 8 for side in (a.shape[1], *b.shape))
        return native_int8(a, b)

    monkeypatch.setattr(torch, "_int_mm", checking_sides)
    x, weight = inputs(None, 1, 13)[:5], weights(13, 11)
    for activations in (WIDE, HIDDEN):
        x = x.clamp(activations.least, activations.largest)
        product = Int8Product(weight, activations)
        product.is_cuda, product.weight = True, pad_to_multiples(weight, 8, 8)
        assert torch.equal(product(x), Int64Product(weight)(x))


def test_neighbourhoods_of_selected_positions() -> None:
    for grid in ((7, 30), (3, 5), (1, 1)):
        x = inputs(grid, 2)
        positions = torch.arange(0, len(x), 2)
        assert torch.equal(neighbourhoods_of(x, grid, positions), neighbourhoods(x, grid)[positions])


def test_shifted_product_equals_the_product_of_neighbourhoods() -> None:
    for grid in ((7, 30), (3, 5), (1, 1), (1, 40)):
        x, weight = inputs(grid, 2).double(), weights(9 * 48).double()
        assert torch.equal(shifted_product(x, weight, grid), neighbourhoods(x, grid) @ weight)


class Fake:
    """Product of known speed: each call advances the fake clock by `ticks`."""

    clock = 0.0

    def __init__(self, ticks: int, *, exact: bool = True) -> None:
        self.ticks, self.exact = ticks, exact

    def __call__(self, weight: Tensor, inputs: Activations) -> Product:
        def product(x: Tensor, grid: Grid | None = None) -> Tensor:
            Fake.clock += self.ticks
            return Int64Product(weight)(x, grid) + (not self.exact)

        return product


@pytest.mark.parametrize(
    ("fakes", "chosen"),
    [
        ({"slow": Fake(9), "fast": Fake(2), "wrong": Fake(1, exact=False)}, "fast"),
        ({"wrong": Fake(1, exact=False), "fast": Fake(2), "slow": Fake(9)}, "fast"),
        ({"fast": Fake(2), "hopeless": Fake(900)}, "fast"),
        ({"wrong": Fake(1, exact=False), "wrong too": Fake(1, exact=False)}, "int64"),
    ],
)
def test_fastest_exact_product_is_chosen(fakes: dict[str, Fake], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "PRODUCTS", fakes | {"int64": Fake(1)})
    monkeypatch.setattr(products.time, "perf_counter", lambda: Fake.clock)
    assert choose_product(CPU) == chosen
    results = {trial.name: trial for trial in trials(CPU)}
    assert all(results[name].is_exact == fake.exact for name, fake in fakes.items())
    assert all(results[name].trial_ms == (1000 * fake.ticks if fake.exact else None) for name, fake in fakes.items())


def test_products_are_tried_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trials(CPU)
    monkeypatch.setattr(products, "is_exact", lambda *_: pytest.fail("tried again"))
    assert trials(CPU) is first


LOW_PRECISION = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "bfloat16 inside float32 products": lambda: MatmulPrecision("medium"),
}


class MatmulPrecision:
    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.name)

    def __exit__(self, *_: object) -> None:
        assert torch.get_float32_matmul_precision() == self.name, "the caller's setting must not change"
        torch.set_float32_matmul_precision(self.before)


@pytest.mark.parametrize("setting", LOW_PRECISION)
@pytest.mark.parametrize("name", EXACT)
def test_settings_of_the_caller_change_no_integer(name: str, setting: str) -> None:
    x, weight = inputs((16, 24), 1, 128), weights(1152, 128)
    expected = Int64Product(weight)(x, (16, 24))
    with LOW_PRECISION[setting]():
        assert is_exact(name, CPU)
        with exact_arithmetic(CPU):
            assert torch.equal(PRODUCTS[name](weight, WIDE)(x, (16, 24)), expected)


def test_products_do_not_change_the_precision() -> None:
    """The caller's products keep the precision that the caller has set."""
    product, x = Float32Product(weights(1152, 128)), inputs((16, 24), 1, 128)
    with MatmulPrecision("medium"), exact_arithmetic(CPU):
        assert not float32_is_float32(CPU)
        product(x, (16, 24))
        assert torch.get_float32_matmul_precision() == "medium"
    assert float32_is_float32(CPU)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has one setting")
def test_inherited_precision_stays_inherited() -> None:
    product, x = Float32Product(weights(1152, 128)), inputs((16, 24), 1, 128)
    torch.backends.fp32_precision = "tf32"
    try:
        assert torch.equal(product(x, (16, 24)), Int64Product(product.integers)(x, (16, 24)))
    finally:
        torch.backends.fp32_precision = "ieee"
    try:
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = "none"


def test_precision_change_during_a_product_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    product, x = Float32Product(weights(96)), inputs(None, 1, 96)
    full_precision = iter((True, False))
    monkeypatch.setattr(products, "float32_is_float32", lambda device: next(full_precision))
    monkeypatch.setattr(product, "product", lambda values, grid: torch.zeros(len(values), 24, dtype=torch.int32))
    assert torch.equal(product(x), Int64Product(product.integers)(x))


def test_precision_is_read_before_torch_2_9(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions of torch have one setting for all devices, under another name."""
    monkeypatch.setattr(torch.backends, "mkldnn", object())
    with MatmulPrecision("medium"):
        assert not float32_is_float32(CPU)
    assert float32_is_float32(CPU)
