"""`ulcodec encode` and `ulcodec decode` of collections: URLs, manifests, lists of errors, several processes."""

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from command_line import Run, assert_refused, files_under
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from ulcodec.format.container import read_head
from ulcodec_cli.manifest import MANIFEST_FIELDS, Report
from ulcodec_cli.record import FOLDER
from ulcodec_cli.work import describe


@pytest.fixture
def store(album: Path) -> str:
    """Copy the album to a store in memory; return its URL."""
    url = f"memory://{uuid4().hex}"
    fsspec.filesystem("memory").put(f"{album}/", f"{url}/album/", recursive=True)
    return url


def names_in(url: str, *, with_records: bool = False) -> set[str]:
    system, path = fsspec.url_to_fs(url)
    names = {name.removeprefix(f"{path}/") for name in system.find(path)}
    return {name for name in names if with_records or FOLDER not in name}


def contents(url: str) -> bytes:
    return fsspec.open(url).open().read()


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_collection_at_a_url_is_encoded_and_decoded(
    store: str, album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    model = ("--model", tiny_model_dir)
    finished = run("encode", f"{store}/album/**", "-o", f"{store}/out", *model)
    assert (finished.code, finished.stderr) == (0, "")
    assert finished.stdout.startswith("3 done, 0 up to date, 0 failed; ")
    assert names_in(f"{store}/out") == {"a.ulc", "b.ulc", "inner/c.ulc"}
    assert run("encode", album, "-r", "-o", tmp_path / "here", *model).code == 0
    for name in names_in(f"{store}/out"):
        assert contents(f"{store}/out/{name}") == (tmp_path / "here" / name).read_bytes()
    assert run("decode", f"{store}/out", "-r", "-o", tmp_path / "back", *model).code == 0
    assert files_under(tmp_path / "back") == {
        "a.png", "b.png", ".ulcodec.jsonl", "inner/c.png", "inner/.ulcodec.jsonl"
    }  # fmt: skip
    assert run("decode", tmp_path / "here", "-o", f"{store}/pictures/", "--format", "jpg", *model).code == 0
    assert names_in(f"{store}/pictures") == {"a.jpg", "b.jpg"}


def test_second_run_does_what_is_missing_or_changed(store: str, tiny_model_dir: Path, run: Run) -> None:
    memory = fsspec.filesystem("memory")
    encode = ("encode", f"{store}/album/**", "-o", f"{store}/out", "--model", tiny_model_dir)
    assert run(*encode).code == 0
    before = contents(f"{store}/out/b.ulc")
    assert run(*encode).stdout.startswith("0 done, 3 up to date, 0 failed")
    memory.rm_file(f"{store}/out/a.ulc")
    memory.pipe_file(f"{store}/album/b.jpg", contents(f"{store}/album/inner/c.png"))
    assert run(*encode).stdout.startswith("2 done, 1 up to date, 0 failed")
    assert contents(f"{store}/out/b.ulc") != before
    assert run(*encode, "-q", 90).stdout.startswith("3 done, 0 up to date, 0 failed")
    memory.pipe_file(f"{store}/out/a.ulc", b"somebody else's")
    memory.pipe_file(f"{store}/album/a.png", contents(f"{store}/album/inner/c.png"))
    finished = run(*encode)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 1 failed")
    assert "exists already; --force overwrites it" in finished.stderr
    assert contents(f"{store}/out/a.ulc") == b"somebody else's"
    assert run(*encode, "--force").stdout.startswith("3 done")


def test_run_that_fails_leaves_what_was_known_of_a_result(store: str, tiny_model_dir: Path, run: Run) -> None:
    encode = ("encode", f"{store}/album/**", "-o", f"{store}/out", "--model", tiny_model_dir)
    assert run(*encode).code == 0
    assert run(*encode, "-q", 90, "--max-pixels", 599).stdout.startswith("0 done, 0 up to date, 3 failed")
    assert run(*encode).stdout.startswith("0 done, 3 up to date, 0 failed")
    assert run(*encode, "-q", 90, "--max-pixels", 599).stdout.startswith("0 done, 0 up to date, 3 failed")
    assert run(*encode, "-q", 90).stdout.startswith("3 done, 0 up to date, 0 failed")


def test_run_that_was_killed_may_replace_what_it_began(
    store: str, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run cannot tell whether a result is whole, so it makes it again."""
    memory = fsspec.filesystem("memory")
    encode = ("encode", f"{store}/album/**", "-o", f"{store}/out", "--model", tiny_model_dir)
    pipe_file = MemoryFileSystem.pipe_file
    is_dead = False

    class Killed(BaseException):
        """Like a kill, it is not handled."""

    def write_and_die(self: MemoryFileSystem, path: str, value: bytes, **options: object) -> None:
        nonlocal is_dead
        if not is_dead:
            pipe_file(self, path, value, **options)
        is_dead = is_dead or path.endswith("a.ulc")
        if is_dead:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", write_and_die)
        with pytest.raises(Killed):
            run(*encode)
    assert names_in(f"{store}/out") == {"a.ulc"}
    before = {name for name in names_in(f"{store}/out", with_records=True) if FOLDER in name}
    assert before
    memory.pipe_file(f"{store}/out/a.ulc", b"a part of it")
    assert run(*encode).stdout.startswith("3 done, 0 up to date, 0 failed")
    assert read_head(contents(f"{store}/out/a.ulc")).header.width == 30
    assert run(*encode).stdout.startswith("0 done, 3 up to date, 0 failed")


def test_manifest_lists_results_of_this_run_and_of_earlier_ones(
    album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    out, manifest = tmp_path / "out", tmp_path / "manifest.jsonl"
    encode = ("encode", album, "-o", f"{out}/", "--model", tiny_model_dir, "--manifest", manifest)
    assert run(*encode, "--psnr").code == 0
    rows = {Path(row["input"]).name: row for row in rows_of(manifest)}
    assert set(rows) == {"a.png", "b.jpg"}
    data = (out / "b.ulc").read_bytes()
    assert rows["b.jpg"] == {
        "input": str(album / "b.jpg"), "output": str(out / "b.ulc"), "bytes": len(data), "width": 30, "height": 20,
        "pictures": None, "bits_per_pixel": 8 * len(data) / 600, "psnr_db": rows["b.jpg"]["psnr_db"],
        "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    Image.new("RGB", (10, 10), (9, 9, 9)).save(album / "d.png")
    assert run(*encode).stdout.startswith("1 done, 2 up to date")
    again = {Path(row["input"]).name: row for row in rows_of(manifest)}
    assert again["b.jpg"] == rows["b.jpg"]
    assert (set(again), again["d.png"]["psnr_db"]) == ({"a.png", "b.jpg", "d.png"}, None)
    assert run(*encode, "--psnr").stdout.startswith("1 done, 2 up to date")


def test_psnr_of_a_report_is_that_of_the_decoded_picture(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photo)
    model = ("--model", tiny_model_dir)
    reported = run("encode", photo, "--psnr", "--json", *model).json["psnr_db"]
    measured = run("compare", photo, photo.with_suffix(".ulc"), "--json", *model).json["psnr_db"]
    assert reported == pytest.approx(measured)


def test_manifest_in_parquet(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "ulcodec[parquet]"')
    manifest = tmp_path / "manifest.parquet"
    finished = run("encode", album, "-r", "--model", tiny_model_dir, "--manifest", manifest, "--psnr")
    assert finished.code == 0
    table = parquet.read_table(manifest)
    assert table.column_names == [
        "input", "output", "bytes", "width", "height", "pictures", "bits_per_pixel", "psnr_db", "sha256"
    ]  # fmt: skip
    for row in table.to_pylist():
        data = Path(row["output"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (row["width"], row["height"]) == (30, 20)
    assert str(table.schema.field("psnr_db").type) == "double"


def test_errors_are_listed_with_their_reasons(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    (album / "bad.png").write_bytes(b"not a picture")
    reports = ("--errors", tmp_path / "errors.jsonl", "--manifest", tmp_path / "manifest.jsonl")
    finished = run("encode", album, "--model", tiny_model_dir, *reports)
    assert finished.code == 1
    [error] = rows_of(tmp_path / "errors.jsonl")
    assert (error["input"], error["reason"]) == (str(album / "bad.png"), "not a picture in a known format")
    assert error["worker"].endswith(f":{os.getpid()}")
    assert len(rows_of(tmp_path / "manifest.jsonl")) == 2
    (album / "bad.png").unlink()
    assert run("encode", album, "--model", tiny_model_dir, *reports).code == 0
    assert (tmp_path / "errors.jsonl").read_bytes() == b""


@pytest.mark.parametrize("engine", ["process", "ray"])
def test_two_workers_write_what_one_process_writes(
    store: str, album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    if engine == "ray":
        request.getfixturevalue("ray_cluster")
    workers = ("--engine", engine, "--jobs", 2, "--device", "cpu")
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(album / f"{number}.png")
    (album / "0.png").write_bytes(b"not a picture")
    model = ("--model", tiny_model_dir, "--manifest", tmp_path / "manifest.jsonl")
    one = run("encode", album, "-r", "-o", tmp_path / "one", *model, "--json")
    rows = rows_of(tmp_path / "manifest.jsonl")
    two = run("encode", album, "-r", "-o", tmp_path / "two", *model, "--json", *workers)
    assert one.code == two.code == 1
    for key in ("n_done", "n_failed", "source_bytes", "output_bytes"):
        assert one.json[key] == two.json[key]
    written = {name: (tmp_path / "one" / name).read_bytes() for name in files_under(tmp_path / "one")}
    for name in (name for name in written if name.endswith(".ulc")):
        assert (tmp_path / "two" / name).read_bytes() == written[name]
    assert files_under(tmp_path / "two") == set(written)
    others = [
        {**row, "output": row["output"].replace("/two/", "/one/")} for row in rows_of(tmp_path / "manifest.jsonl")
    ]
    assert sorted(others, key=str) == sorted(rows, key=str)
    again = run("encode", album, "-r", "-o", tmp_path / "two", *model, *workers)
    assert again.stdout.startswith("0 done, 42 up to date, 1 failed")
    decoded = run("decode", tmp_path / "two", "-r", "-o", tmp_path / "back", *model, *workers, "--json")
    assert (decoded.code, decoded.json["n_done"]) == (0, 42)
    assert_refused(run("encode", album, "-o", f"{store}/out", *model, *workers), "memory:// is in this process only")


def test_archives_are_read(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for name in ("a.png", "b.jpg", "inner/c.png", "notes.txt"):
            archive.write(album / name, name)
    url, model = f"::file://{tmp_path}/album.zip", ("--model", tiny_model_dir)
    assert run("encode", f"zip://**{url}", "-o", tmp_path / "out", *model, "--jobs", 2).code == 0
    assert files_under(tmp_path / "out") == {
        "a.ulc", "b.ulc", ".ulcodec.jsonl", "inner/c.ulc", "inner/.ulcodec.jsonl"
    }  # fmt: skip
    assert run("encode", f"zip://inner/c.png{url}", "-o", tmp_path / "one.ulc", *model).code == 0
    assert (tmp_path / "one.ulc").read_bytes() == (tmp_path / "out/inner/c.ulc").read_bytes()
    assert_refused(run("encode", album, "-o", f"zip://{url}", *model), "can be read, not written")
    assert_refused(run("encode", f"zip://*.png{url}", *model), "can be read, not written")


def test_single_url_is_like_a_single_file(store: str, album: Path, tiny_model_dir: Path, run: Run) -> None:
    encode = ("encode", f"{store}/album/a.png", "--model", tiny_model_dir)
    assert run(*encode).code == 0
    assert read_head(contents(f"{store}/album/a.ulc")).header.width == 30
    assert_refused(run(*encode), "exists already")
    assert run(*encode, "-o", f"{store}/new/").code == 0
    assert run(*encode, "-o", f"{store}/other/x.ulc", "--manifest", album / "m.jsonl").code == 0
    assert {name for name in names_in(store) if name.endswith(".ulc")} == {"album/a.ulc", "new/a.ulc", "other/x.ulc"}
    assert len(rows_of(album / "m.jsonl")) == 1
    assert run("decode", f"{store}/album/a.ulc", "-o", album / "a2.png", "--model", tiny_model_dir).code == 0
    assert_refused(run("encode", f"{store}/album/z.png", "-o", f"{store}/z.ulc"), "No such file")


def test_inputs_of_one_target_are_done_once(store: str, album: Path, tiny_model_dir: Path, run: Run) -> None:
    Image.open(album / "b.jpg").save(album / "a.jpg")
    model = ("--model", tiny_model_dir)
    finished = run("encode", album, f"{store}/album/*", "-o", f"{store}/out", *model)
    assert finished.code == 1
    assert names_in(f"{store}/out") == {"a.png.ulc", "a.jpg.ulc", "a.ulc", "b.ulc"}
    assert finished.stderr.count("would be written by more than one input") == 1
    twice = run("encode", f"{store}/album/*", f"{store}/album/*", "-o", f"{store}/twice", *model)
    assert twice.stdout.startswith("2 done, 0 up to date, 0 failed")


def test_file_given_by_path_and_url_is_done_once(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    same = (os.path.relpath(album / "a.png"), album / "a.png", f"file://{album}/a.png")
    finished = run("encode", *same, "-o", tmp_path / "out", "--model", tiny_model_dir)
    assert (finished.code, finished.stdout[:30]) == (0, "1 done, 0 up to date, 0 failed")


def test_unusual_urls_are_errors_in_one_line(
    store: str, album: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, to_store = f"{store}/album/**", ("-o", f"{store}/out")
    assert_refused(run("encode", "nonsense://a/**", *to_store), "nonsense")
    assert_refused(run("encode", f"{store}/nowhere/**", *to_store), "No such file")
    assert_refused(run("encode", f"{store}/album/*.bmp", *to_store), "*.bmp: nothing to do here")
    assert_refused(run("encode", pattern, "-o", f"{store}/*"), "one file or folder")
    assert_refused(run("encode", pattern, "-o", f"{store}/x.ulc"), "this names a file")
    assert_refused(run("encode", pattern, "-o", "-"), "standard streams")
    assert_refused(run("encode", pattern, *to_store, "--manifest", album), "directory")
    assert_refused(run("encode", pattern, *to_store, "--errors", album / "no" / "errors"), "No such file")
    for name in ("-", album / "a.png", f"{store}/album/b.jpg", album / ".ulcodec.jsonl"):
        assert_refused(run("encode", pattern, *to_store, "--manifest", name), "name the manifest")
    wrong = run("encode", pattern, *to_store, "--manifest", "m.jsonl", "--errors", "m.jsonl")
    assert (wrong.code, "name the same file" in wrong.stderr) == (2, True)
    wrong = run("encode", pattern, *to_store, "--engine", "steam")
    assert (wrong.code, "--engine is one of process, ray" in wrong.stderr) == (2, True)
    wrong = run("encode", "-", "-o", album / "x.ulc", "--jobs", 2)
    assert (wrong.code, "standard streams" in wrong.stderr) == (2, True)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert_refused(run("encode", pattern, *to_store, "--manifest", "m.parquet"), "ulcodec[parquet]")
    assert names_in(store) == {"album/a.png", "album/b.jpg", "album/inner/c.png", "album/notes.txt"}
    assert not Path("m.parquet").exists()


def test_videos_at_urls_are_refused(store: str, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (90 * number, 0, 0)) for number in range(3)]
    clip = tmp_path / "clip.gif"
    frames[0].save(clip, save_all=True, append_images=frames[1:])
    model = ("--model", tiny_model_dir)
    fsspec.filesystem("memory").put_file(str(clip), f"{store}/clip.gif")
    assert_refused(run("encode", f"{store}/clip.gif", *model), "a video in a shard or at a URL is not encoded")
    fsspec.filesystem("memory").pipe_file(f"{store}/film.mp4", b"a film")
    assert_refused(run("encode", f"{store}/*.mp4", *model), "nothing to do here")
    assert_refused(run("encode", clip, "-o", f"{store}/clip.ulc", *model), "a file on this machine")
    assert run("encode", clip, *model).code == 0
    fsspec.filesystem("memory").put_file(str(clip.with_suffix(".ulc")), f"{store}/clip.ulc")
    assert_refused(run("decode", f"{store}/clip.ulc", *model), "a video in a shard or at a URL is not decoded")
    assert_refused(run("decode", clip.with_suffix(".ulc"), "-o", f"{store}/clip.mp4", *model), "a file on this machine")


def test_manifest_lists_videos(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (90 * number, 0, 0)) for number in range(3)]
    frames[0].save(album / "clip.gif", save_all=True, append_images=frames[1:])
    manifest = tmp_path / "manifest.jsonl"
    command = ("--model", tiny_model_dir, "--manifest", manifest, "--jobs", 2)
    assert run("encode", album / "clip.gif", album / "a.png", "-o", f"{tmp_path}/out/", *command).code == 0
    rows = {Path(row["output"]).name: row for row in rows_of(manifest)}
    for name in ("clip.ulc", "a.ulc"):
        assert rows[name]["sha256"] == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
    assert run("decode", tmp_path / "out" / "clip.ulc", "-o", tmp_path / "clip.mp4", *command).code == 0
    [row] = rows_of(manifest)
    assert row["sha256"] == hashlib.sha256((tmp_path / "clip.mp4").read_bytes()).hexdigest()


def test_reports_at_urls(store: str, album: Path, tiny_model_dir: Path, run: Run) -> None:
    reports = ("--manifest", f"{store}/manifest.jsonl", "--errors", f"{store}/errors.jsonl")
    assert run("encode", album, "--model", tiny_model_dir, *reports).code == 0
    assert len(contents(f"{store}/manifest.jsonl").splitlines()) == 2
    assert contents(f"{store}/errors.jsonl") == b""


def test_damaged_record_is_no_error(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "ulcodec[parquet]"')
    encode = ("encode", album, "--model", tiny_model_dir)
    assert run(*encode).code == 0
    record = album / ".ulcodec.jsonl"
    [*_, line] = record.read_text().splitlines()
    bad_values = {"bytes": 2**70, "width": "x", "bits_per_pixel": {}, "sha256": 5, "input": "other"}
    for row in (5, [1], "psnr_db", bad_values):
        record.write_text(json.dumps({**json.loads(line), "row": row}) + "\n")
        for manifest in (tmp_path / "m.jsonl", tmp_path / "m.parquet"):
            finished = run(*encode, "--manifest", manifest)
            assert (finished.stdout[:28], finished.stderr) == ("0 done, 2 up to date, 0 fail", "")
        assert {Path(entry["input"]).name for entry in rows_of(tmp_path / "m.jsonl")} == {"a.png", "b.jpg"}
        assert all(entry["width"] is None for entry in rows_of(tmp_path / "m.jsonl"))
    record.write_text(json.dumps({**json.loads(line), "row": "psnr_db"}) + "\n")
    assert run(*encode, "--psnr").code == 0


def test_infinite_psnr_and_names_that_are_not_text_in_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "ulcodec[parquet]"')
    report = Report(str(tmp_path / "m.parquet"), MANIFEST_FIELDS)
    report.add({"input": "\udcff.png", "psnr_db": float("inf")})
    report.commit()
    [row] = parquet.read_table(tmp_path / "m.parquet").to_pylist()
    assert (row["input"], row["psnr_db"]) == ("\\udcff.png", None)


def test_video_without_psnr_is_up_to_date(tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (90 * number, 0, 0)) for number in range(3)]
    (tmp_path / "in").mkdir()
    frames[0].save(tmp_path / "in" / "clip.gif", save_all=True, append_images=frames[1:])
    encode = ("encode", tmp_path / "in", "--model", tiny_model_dir, "--psnr")
    assert run(*encode).stdout.startswith("1 done")
    assert run(*encode).stdout.startswith("0 done, 1 up to date")


def test_reports_that_cannot_be_written_are_failures(
    album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MemoryFileSystem, *_: object, **__: object) -> None:
        raise ValueError("no such bucket")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reports = ("--manifest", "memory://m.jsonl", "--errors", "memory://e.jsonl")
    finished = run("encode", album, "--model", tiny_model_dir, *reports)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 2 failed")
    assert finished.stderr.splitlines() == [
        f"ulcodec: error: memory:///{name}: cannot be written: no such bucket" for name in ("m.jsonl", "e.jsonl")
    ]
    assert list(tmp_path.glob("tmp*")) == []


def test_target_folder_that_cannot_be_listed_costs_only_its_inputs(
    store: str, album: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ls = MemoryFileSystem.ls

    def deny(self: MemoryFileSystem, path: str, **options: object) -> object:
        if path.endswith("/out/inner"):
            raise PermissionError("access denied")
        return ls(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", deny)
    finished = run("encode", album, "-r", "-o", f"{store}/out", "--model", tiny_model_dir)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 1 failed")
    assert finished.stderr.count("its folder cannot be listed: access denied") == 1
    monkeypatch.undo()
    assert names_in(f"{store}/out") == {"a.ulc", "b.ulc"}


def test_error_without_words_is_named() -> None:
    assert describe(OSError()) == "OSError"
