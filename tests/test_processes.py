"""A codec in several processes and threads: pickled, copied, forked, spawned."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ulcodec.codec.image import Codec

PIXELS = np.arange(160 * 160 * 3, dtype=np.uint32).reshape(160, 160, 3).astype(np.uint8)

POOL = """
import multiprocessing, sys
import numpy as np, torch, ulcodec

torch.set_num_threads(2)
pixels = np.arange(160 * 160 * 3, dtype=np.uint32).reshape(160, 160, 3).astype(np.uint8)
codec = ulcodec.load(sys.argv[1])

def work(i):
    data = codec.encode(np.roll(pixels, i, 0))
    return data, codec.decode_array(data).tobytes()

if __name__ == "__main__":
    expected = [work(i) for i in range(3)]
    with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
        assert pool.map(work, range(3)) == expected
    loader = torch.utils.data.DataLoader([0, 1, 2], num_workers=1, collate_fn=lambda i: work(i[0]),
                                         multiprocessing_context="fork")
    assert list(loader) == expected
    print("equal")
"""


@pytest.mark.parametrize("used", [False, True])
def test_codec_is_pickled_and_copied_before_and_after_use(tiny_codec: Codec, used: bool) -> None:
    if used:
        tiny_codec.encode(PIXELS)
    for codec in (pickle.loads(pickle.dumps(tiny_codec)), copy.deepcopy(tiny_codec)):
        assert codec.encode(PIXELS) == tiny_codec.encode(PIXELS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_pool_of_processes_gives_the_same_results(tiny_model_dir: Path, tmp_path: Path, start: str) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, str(script), str(tiny_model_dir), start]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert (finished.returncode, finished.stdout) == (0, "equal\n"), finished.stderr[-3000:]


def test_threads_may_share_a_codec(tiny_codec: Codec) -> None:
    pictures = [np.roll(PIXELS, i, 0) for i in range(6)]
    expected = [tiny_codec.encode(pixels) for pixels in pictures]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(tiny_codec.encode, pictures)) == expected
    assert torch.get_num_threads() == before
