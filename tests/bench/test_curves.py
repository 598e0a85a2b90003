"""Rate-distortion curves and their BD-rates."""

import math

import pytest

from ulcodec.bench.curves import Curve, bd_rows, increasing


def test_bd_rates_are_sorted_and_have_the_common_range() -> None:
    curve = Curve([0.1, 0.3, 0.9], [26.0, 30.0, 35.0])
    anchors = {
        "half": Curve([bpp / 2 for bpp in curve.bpp], curve.quality),
        "far": Curve([1.0, 2.0], [50.0, 60.0]),
        "double": Curve([0.2, 0.6, 1.8, 9.0], [26.0, 30.0, 35.0, 40.0]),
    }
    rows = bd_rows(anchors, curve)
    assert [row["anchor"] for row in rows] == ["double", "half", "far"]
    assert rows[1]["bd_rate_percent"] == pytest.approx(100)
    assert (rows[0]["low_db"], rows[0]["high_db"]) == (26.0, 35.0)


def test_curves_without_common_psnr_have_no_bd_rate() -> None:
    rows = bd_rows({"far away": Curve([1.0, 2.0], [90.0, 95.0])}, Curve([0.1, 0.3], [26.0, 30.0]))
    assert rows == [{"anchor": "far away", "bd_rate_percent": None, "low_db": None, "high_db": None}]


def test_curves_skip_worse_and_infinite_points() -> None:
    points = [(0.5, 30.0), (0.2, 25.0), (0.6, 29.0), (0.2, 24.0), (0.9, math.inf), (0.8, 33.0)]
    assert increasing(points) == Curve([0.2, 0.5, 0.8], [25.0, 30.0, 33.0])
