"""Work in several processes, of this machine and of Ray: nothing is lost when workers die."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest
import typer
from command_line import files_under
from copying import Copying

from ulcodec.errors import DeviceError, LocationError, UlcError
from ulcodec_cli.batch import BulkOptions, run_plan
from ulcodec_cli.plan import make_plan

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

N_FILES = 70
"""More than two workers take at a time."""


@pytest.fixture(params=["process", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(N_FILES):
        (tmp_path / "in" / f"{number:02d}.txt").write_text(f"text {number}")
    return tmp_path / "in"


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str
    errors: dict[str, dict]
    manifest: list[dict]


def copied(
    folder: Path, engine: str, capsys: pytest.CaptureFixture[str], n_workers: int = 2, load_error: str = ""
) -> Ended:
    """Copy the files of a folder to the folder `out` beside it."""
    reports = [folder.parent / name for name in ("manifest.jsonl", "errors.jsonl")]
    bulk = BulkOptions(engine, n_workers, *map(str, reports))
    out = f"{folder.parent}/out/"
    plan = make_plan([str(folder)], out, lambda _: ".out", lambda: {".txt"}, recursive=False, force=False)
    task = Copying(folder.parent / "loads.txt", load_error)
    with pytest.raises(typer.Exit) as ended:
        run_plan(plan, task, bulk, force=False, json=False)
    manifest, errors = ([json.loads(line) for line in report.read_text().splitlines()] for report in reports)
    by_input = {Path(error["input"]).name: error for error in errors}
    return Ended(ended.value.exit_code, *capsys.readouterr(), by_input, manifest)


def assert_copied(folder: Path, without: set[str] = frozenset()) -> None:
    expected = {f"{file.stem}.out": file.read_bytes().upper() for file in folder.iterdir() if file.name not in without}
    out = folder.parent / "out"
    assert {name: (out / name).read_bytes() for name in files_under(out) - {".ulcodec.jsonl"}} == expected


def test_workers_do_what_one_process_does(folder: Path, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "05.txt").write_text("bad one")
    (folder / "06.txt").write_text("loud one")
    ended = copied(folder, engine, capsys)
    assert ended.code == 1
    assert ended.stdout.startswith(f"{N_FILES - 1} done, 0 up to date, 1 failed")
    assert ended.stderr.splitlines() == [
        f"ulcodec: warning: {folder}/06.txt: loud",
        f"ulcodec: error: {folder}/05.txt: not good",
    ]
    assert list(ended.errors) == ["05.txt"]
    assert ended.errors["05.txt"]["reason"] == "not good"
    assert ended.errors["05.txt"]["worker"].rpartition(":")[2] != str(os.getpid())
    assert len(ended.manifest) == N_FILES - 1
    assert_copied(folder, without={"05.txt"})
    workers = {line.split()[0] for line in (folder.parent / "loads.txt").read_text().splitlines()}
    assert 1 <= len(workers) <= 2  # the first may have done all before the second has started


def test_input_that_kills_its_worker_costs_only_itself(
    folder: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("03.txt", "60.txt"):
        (folder / name).write_text("poison")
    ended = copied(folder, engine, capsys)
    assert (ended.code, set(ended.errors)) == (1, {"03.txt", "60.txt"})
    assert "2 workers died of it" in ended.errors["03.txt"]["reason"]
    assert_copied(folder, without={"03.txt", "60.txt"})
    (folder / "03.txt").write_text("cured")
    again = copied(folder, engine, capsys)
    assert f"1 done, {N_FILES - 2} up to date, 1 failed" in again.stdout
    assert len(again.manifest) == N_FILES - 1


def test_input_whose_worker_died_for_another_reason_is_done(
    folder: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.parent / "fuse").touch()
    (folder / "03.txt").write_text(f"frail {folder.parent / 'fuse'}")
    ended = copied(folder, engine, capsys)
    assert (ended.code, ended.errors) == (0, {})
    assert_copied(folder)


def test_worker_killed_from_outside_loses_nothing(
    folder: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folder.iterdir():
        file.write_text("slow")
    loads = folder.parent / "loads.txt"

    def kill_first_worker() -> None:
        while not loads.exists() or not loads.read_text().endswith("\n"):
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(int(loads.read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_first_worker)
    killer.start()
    ended = copied(folder, engine, capsys)
    killer.join()
    assert (ended.code, ended.errors) == (0, {})
    assert len(loads.read_text().splitlines()) >= 2
    assert_copied(folder)


@pytest.mark.parametrize(("load_error", "words"), [("no such model",) * 2, ("death", "died when it loaded the model")])
def test_workers_that_cannot_load_the_model_end_the_run(
    folder: Path, engine: str, capsys: pytest.CaptureFixture[str], load_error: str, words: str
) -> None:
    with pytest.raises(UlcError, match=words):
        copied(folder, engine, capsys, load_error=load_error)
    assert files_under(folder.parent / "out") <= {".ulcodec.jsonl"}


def test_ray_warns_of_workers_that_have_no_room(
    folder: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = copied(folder, "ray", capsys, n_workers=5)
    assert (ended.code, ended.stderr) == (0, "ulcodec: warning: the Ray cluster has room for 2 workers, not 5\n")
    assert_copied(folder)


def test_ray_without_room_for_any_worker_is_an_error(ray_cluster: None, tmp_path: Path) -> None:
    from ulcodec_cli.ray_engine import RayEngine

    task = Copying(tmp_path / "log")
    task.model = task.model._replace(threads=99)
    with pytest.raises(DeviceError, match="no room for a worker of 99 CPUs"):
        RayEngine(task, None)


@pytest.mark.parametrize(
    ("device", "n_workers", "n_started", "n_gpus"),
    [("cpu", None, 2, 0), ("auto", None, 1, 1), ("cuda", None, 1, 1), ("cuda", 2, 2, 0.5)],
)
def test_ray_shares_gpus(
    ray_cluster: None, tmp_path: Path, device: str, n_workers: int | None, n_started: int, n_gpus: float
) -> None:
    """The cluster says that it has one GPU; the task needs none."""
    from ulcodec_cli.ray_engine import RayEngine

    task = Copying(tmp_path / "log")
    task.model = task.model._replace(device=device)
    engine = RayEngine(task, n_workers)
    assert (engine.n_workers, engine.options["num_gpus"]) == (n_started, n_gpus)
    handles = [engine.new() for _ in range(engine.n_workers)]
    assert [handle.start().result().error for handle in handles] == [None] * n_started
    for handle in handles:
        handle.stop()


def test_files_in_this_process_only_are_refused(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/nowhere/a.txt", b"")
    plan = make_plan(
        ["memory://nowhere/a.txt"], str(tmp_path), lambda _: ".out", lambda: {".txt"}, recursive=False, force=False
    )
    with pytest.raises(LocationError, match="memory:// is in this process only"):
        run_plan(plan, Copying(tmp_path / "log"), BulkOptions("process", 2, None, None), force=False, json=False)


def is_running(process: int) -> bool:
    """Whether a process runs, as Linux says; one that has ended may wait for its parent to notice."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


SCRIPT = """
import signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from copying import Copying
from ulcodec_cli.batch import BulkOptions, run_plan
from ulcodec_cli.plan import make_plan
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
    plan = make_plan([{folder!r}], {out!r}, lambda _: ".out", lambda: {{".txt"}}, recursive=False, force=False)
    run_plan(plan, Copying(Path({log!r})), BulkOptions("process", 2, None, None), force=False, json=False)
"""


def test_workers_end_with_a_run_that_is_killed_and_the_next_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for file in folder.iterdir():
        file.write_text("slow")
    log, out = tmp_path / "loads.txt", tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(paths=[str(Path(__file__).parent)], folder=str(folder), out=f"{out}/", log=str(log))
    )
    run = subprocess.Popen([sys.executable, str(script)])
    while not log.exists() or len(log.read_text().splitlines()) < 2 or len(list(out.glob("*.out"))) < 5:
        time.sleep(0.01)
        assert run.poll() is None
    run.kill()
    run.wait()
    workers = [int(line.split()[0]) for line in log.read_text().splitlines()]
    for _ in range(500):
        if not any(map(is_running, workers)):
            break
        time.sleep(0.01)
    else:
        pytest.fail("workers outlived the run")
    n_written = len(list(out.glob("*.out")))
    assert 5 <= n_written < N_FILES
    for unfinished in out.glob(".ulcodec-*.tmp"):  # of a worker that ended between writing and renaming
        unfinished.unlink()
    ended = copied(folder, "process", capsys)
    assert (ended.code, ended.errors) == (0, {})
    assert_copied(folder)


def test_interrupted_workers_remove_their_temporary_files(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        file.write_text("tidy")
    script, paths = tmp_path / "script.py", [str(Path(__file__).parent)]
    script.write_text(SCRIPT.format(paths=paths, folder=str(folder), out=f"{tmp_path}/out/", log=str(tmp_path / "log")))
    run = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    while not list(folder.glob("*.tmp")):
        time.sleep(0.01)
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    run.wait(timeout=30)
    assert list(folder.glob("*.tmp")) == []


def test_ray_cluster_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "ulcodec[ray]"')
    from ulcodec_cli.ray_engine import RayEngine

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(DeviceError, match="no Ray cluster at RAY_ADDRESS"):
            RayEngine(Copying(tmp_path / "log"), None)


def test_ray_leaves_the_handler_of_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "ulcodec[ray]"')
    from ulcodec_cli.ray_engine import start

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    start(ray)
    assert signal.getsignal(signal.SIGTERM) == before


def test_ray_is_missed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ulcodec.errors import MissingPackageError
    from ulcodec_cli.ray_engine import RayEngine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"ulcodec\[ray\]"):
        RayEngine(Copying(tmp_path / "log"), None)


def test_ray_is_a_development_dependency() -> None:
    """Otherwise half of these tests would be skipped."""
    assert find_spec("ray") is not None
