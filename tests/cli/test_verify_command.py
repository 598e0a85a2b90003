"""`ulcodec verify`."""

from pathlib import Path

from command_line import Run


def test_verify_distinguishes_sound_and_damaged_files(coded: Path, run: Run) -> None:
    data = coded.read_bytes()
    flipped, foreign, missing = (coded.with_name(name) for name in ("flipped.ulc", "foreign.ulc", "missing.ulc"))
    flipped.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    foreign.write_bytes(b"not a picture")
    assert run("verify", coded, coded) == (0, f"{coded}: ok\n{coded}: ok\n", "")
    finished = run("verify", flipped, coded, foreign, missing)
    assert finished.code == 1
    assert finished.stdout == f"{coded}: ok\n"
    first, second, third = finished.stderr.splitlines()
    assert first.startswith(f"{flipped}: ChecksumError: ")
    assert second.startswith(f"{foreign}: NotUlcError: ")
    assert third == f"{missing}: No such file or directory"
    finished = run("verify", flipped, "--json")
    assert finished.code == 1
    assert finished.json["ok"] is False
