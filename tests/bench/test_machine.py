"""The record of the machine and the command of a benchmark."""

from ulcodec.bench.machine import without_folder


def test_paths_in_commands_lose_their_folders() -> None:
    arguments = ["--images=/data/kodak", "/data/model", "relative/path", "-o", "0.1,0.2"]
    assert list(map(without_folder, arguments)) == ["--images=kodak", "model", "relative/path", "-o", "0.1,0.2"]
