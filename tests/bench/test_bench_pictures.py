"""Pictures for benchmarks: those of a folder, samples, and crops of a size."""

from pathlib import Path

import numpy as np
import pytest

from ulcodec.bench.pictures import Picture, find_pictures, fitted
from ulcodec.errors import ImageError


def test_folder_or_samples_give_the_pictures(odd_pictures_dir: Path, tmp_path: Path) -> None:
    assert [(picture.name, picture.width, picture.height) for picture in find_pictures(odd_pictures_dir)] == [
        ("colour.png", 51, 37),
        ("grey.png", 33, 37),
    ]
    assert len(find_pictures(odd_pictures_dir, limit=1)) == 1
    assert [(picture.width, picture.height) for picture in find_pictures(None)] == [(512, 512), (600, 400), (451, 300)]
    with pytest.raises(FileNotFoundError, match="no pictures"):
        find_pictures(tmp_path)
    (tmp_path / "junk.png").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"junk\.png: not a picture"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("shape", [(40, 30, 3), (10, 90), (64, 48, 3), (8, 6, 3)])
def test_fitted_pictures_have_the_size_and_keep_the_centre(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    result = fitted(Picture("noise", pixels), 48, 64)
    assert (result.width, result.height) == (48, 64)
    assert result.pixels.shape[2:] == shape[2:]
    assert np.array_equal(result.pixels[32, 24], pixels[shape[0] // 2, shape[1] // 2])
