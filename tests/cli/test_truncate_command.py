"""`ulcodec truncate`, compared with `decode --fraction`."""

from pathlib import Path

from command_line import Run, assert_refused


def test_truncate_keeps_segments_fraction_or_size(photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    coded = tmp_path / "a.ulc"
    run("encode", photo, "-q", 90, "-o", coded, "--model", tiny_model_dir)
    size = coded.stat().st_size
    for number, option in enumerate((["--segments", 2], ["--fraction", 0.9], ["--size", f"{size - 1}B"])):
        cut = tmp_path / f"cut{number}.ulc"
        finished = run("truncate", coded, "-o", cut, *option, "--json")
        assert finished.json["file_bytes"] == cut.stat().st_size < size
        assert finished.json["n_segments"] == (2 if number == 0 else 3)
        assert run("verify", cut).code == 0
        assert run("decode", cut, "--model", tiny_model_dir).code == 0
    assert run("decode", coded, "-o", tmp_path / "part.png", "--fraction", 0.9, "--model", tiny_model_dir).code == 0
    assert (tmp_path / "part.png").read_bytes() == (tmp_path / "cut1.png").read_bytes()
    assert_refused(run("truncate", photo, "-o", tmp_path / "none.ulc", "--segments", 1), "not a .ulc file")
