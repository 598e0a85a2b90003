"""`ulcodec model`."""

from pathlib import Path

from command_line import Run, assert_refused

from ulcodec.coding.products import PRODUCTS


def test_model_describe_lists_parts_and_integer_products(run: Run) -> None:
    described = run("model", "describe", "--config", "tiny", "--json").json
    assert described["config"] == "tiny"
    assert all(row["parameters"] > 0 and row["kmac_per_px"] > 0 for row in described["parts"])
    table = run("model", "describe", "--config", "tiny").stdout.splitlines()
    products = described["products"]
    tried = {trial["name"]: trial for trial in products["trials"]}
    assert tried[products["chosen"]]["is_exact"]
    assert tried.keys() == PRODUCTS.keys()
    assert len(table) == 1 + len(described["parts"]) + 2 + len(tried)
    assert any(line.startswith("Integer products on cpu: ") for line in table)
    assert_refused(run("model", "describe", "--config", "none"), "none")


def test_model_describe_describes_a_model(run: Run, tiny_model_dir: Path) -> None:
    described = run("model", "describe", "--model", str(tiny_model_dir), "--json").json
    assert described["parts"] == run("model", "describe", "--config", "tiny", "--json").json["parts"]
    assert_refused(run("model", "describe", "--model", "none"), "none")
