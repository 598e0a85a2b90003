"""Train other networks from `.ulc` files: a decoder for WebDataset, and a dataset for `torch.utils.data`.

    decoder = UlcDecoder()
    shards = wds.WebDataset("train-{000..009}.tar").decode(decoder)                    # one picture at a time
    shards = wds.WebDataset("train-{000..009}.tar").decode().compose(decoder.samples)  # many at a time
    pictures = UlcDataset.of_folder("pictures/")                                       # (tensor, class)

Pictures are tensors [3, H, W], on the CPU. `ulcodec encode train.tar -o coded/` makes the shards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ulcodec.codec.image import Codec, decode_batch
from ulcodec.codec.loading import load_once
from ulcodec.codec.realism import Realism
from ulcodec.errors import FormatError, UlcError, UnknownModelError
from ulcodec.format.container import MAX_PIXELS
from ulcodec.info import by_model
from ulcodec.io.picture import Picture

Fields = dict[str, Any]
"""A sample of WebDataset: contents by extension, and names that begin with two underscores."""


FILE_ERRORS = (FormatError, UnknownModelError)
"""Errors of one file, as opposed to those of a model that cannot be loaded."""


def reraise(error: Exception) -> bool:
    """Raise an error, the default of WebDataset's handlers."""
    raise error


class UlcDecoder:
    """Decodes `.ulc` files to tensors [3, H, W], in every process that it is sent to.

    `model`: name or directory, None for the model that made each file; `device`: "auto" is a GPU if there is one, but
    the CPU in a worker of a `DataLoader`; `dtype`: torch.uint8, or a floating-point type for values in [0, 1];
    `batch_size`: files that are decoded at a time where there are many: those of about one size share the passes of the
    networks. `realism`: from 0, the picture of least squared error, to 1, a sample with natural detail, see
    `Codec.decode_picture`; networks learn more from small files with it. `max_pixels`: limit for a picture.

    Grey is repeated, alpha is left out, and neither colour profiles nor a kept EXIF orientation are applied. Samples
    can differ by a level or so with the other pictures of a batch, and with the number of threads. The model is loaded
    for the first picture. Raises ValueError for another dtype, a batch size below 1, or realism out of range; when
    decoding what `ulcodec.load` and `Codec.decode` raise.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: torch.dtype = torch.uint8,
        batch_size: int = 32,
        realism: float | Realism = 0.0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if dtype != torch.uint8 and not getattr(dtype, "is_floating_point", False):
            raise ValueError(f"dtype must be torch.uint8 or a floating-point type, got {dtype}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.device, self.dtype = model, device, dtype
        self.realism = Realism.of(realism)
        self.batch_size, self.max_pixels = batch_size, max_pixels

    def codec(self, directory: Path) -> Codec:
        """The model of a directory, loaded once in a process."""
        is_forked = self.device == "auto" and get_worker_info() is not None  # such a process cannot use CUDA
        return load_once(directory, "cpu" if is_forked else self.device)

    def decode(self, files: Sequence[bytes]) -> list[Tensor]:
        """Decode files of any sizes, `batch_size` at a time."""
        parts = (files[start : start + self.batch_size] for start in range(0, len(files), self.batch_size))
        return [tensor for part in parts for tensor in self._decode_together(part)]

    def _decode_together(self, files: Sequence[bytes]) -> list[Tensor]:
        """Decode files at a time, those of each model together."""
        tensors: dict[int, Tensor] = {}
        options: Any = {"realism": self.realism, "max_pixels": self.max_pixels}
        for directory, indices in by_model(files, self.model).items():
            pictures = decode_batch(self.codec(directory), [files[index] for index in indices], **options)
            tensors.update(zip(indices, map(self._tensor, pictures), strict=True))
        return [tensors[index] for index in range(len(files))]

    def __call__(self, key: str, data: Any) -> Tensor | None:
        """Decode a field of a sample, as a handler of WebDataset's `decode`; None if it is not a `.ulc` file."""
        return self.decode([data])[0] if is_ulc(key) else None

    def samples(self, samples: Iterable[Fields], handler: Callable[[Exception], bool] = reraise) -> Iterator[Fields]:
        """Decode the `.ulc` fields of samples, `batch_size` samples at a time, in their order.

        A stage for WebDataset's `compose`; `samples` may also be a `WebLoader` whose workers read the files. `handler`
        takes the error of a damaged file, as those of WebDataset do: it returns whether to go on without the sample, or
        to end, or raises. The error names the shard and the file. Raises TypeError for samples in batches.
        """
        remaining = iter(samples)
        while window := list(islice(remaining, self.batch_size)):
            fields = [ulc_fields(sample) for sample in window]
            named = [
                (f"{place_of(sample)}.{key}", data)
                for sample, files in zip(window, fields, strict=True)
                for key, data in files.items()
            ]
            results = iter(self.attempt(named))
            for sample, files in zip(window, fields, strict=True):
                decoded = dict(zip(files, islice(results, len(files)), strict=True))
                error = next((result for result in decoded.values() if isinstance(result, Exception)), None)
                if error is None:
                    yield {**sample, **decoded}
                elif not handler(error):
                    return

    def attempt(self, named: Sequence[tuple[str, bytes]]) -> Sequence[Tensor | UlcError]:
        """Decode files together; if that fails, each alone. The error of a damaged file begins with its name."""
        try:
            return self.decode([data for _, data in named])
        except FILE_ERRORS:
            return [self._attempt_alone(name, data) for name, data in named]

    def _attempt_alone(self, name: str, data: bytes) -> Tensor | UlcError:
        try:
            return self.decode([data])[0]
        except FILE_ERRORS as error:
            return type(error)(f"{name}: {error}")  # without a cause: its traceback would hold the files

    def _tensor(self, picture: Picture) -> Tensor:
        """Convert a picture to a tensor [3, H, W] of `dtype`."""
        if self.dtype == torch.uint8:
            return torch.from_numpy(picture.rgb_8.transpose(2, 0, 1).copy())
        channels = np.atleast_3d(picture.pixels).transpose(2, 0, 1)  # [1 or 3, H, W]
        values = torch.from_numpy(channels.astype(np.float32) / np.float32(2**picture.bit_depth - 1))
        return values.to(self.dtype).expand(3, -1, -1).contiguous()


def is_ulc(key: str) -> bool:
    """Whether an extension is that of a `.ulc` file: ulc, or left.ulc."""
    return key.lower().rpartition(".")[2] == "ulc"


def ulc_fields(sample: Fields) -> dict[str, bytes]:
    """The `.ulc` files among the fields of a sample, without those that are decoded already.

    Raises TypeError for anything else.
    """
    fields = {key: data for key, data in sample.items() if is_ulc(key) and not isinstance(data, Tensor)}
    for key, data in fields.items():
        if not isinstance(data, bytes):
            raise TypeError(
                f"expected the bytes of a file in {key!r}, got {type(data).__name__}: decode before batching"
            )
    return fields


def place_of(sample: Fields) -> str:
    """The shard of a sample, if it is known, and its key."""
    shard = f"{sample['__url__']}: " if "__url__" in sample else ""
    return f"{shard}{sample.get('__key__', '')}"


class UlcDataset(Dataset[Any]):
    """`.ulc` files on the disk as a dataset for `torch.utils.data`: tensors [3, H, W], or pairs with a target.

    `files`: paths; `targets`: one for each file, None for pictures alone; `transform`: is applied to each tensor. A
    `DataLoader` gets the pictures of a batch decoded together. Raises ValueError for one path in place of a sequence,
    or if there are not as many targets as files; reading raises OSError, and decoding as `UlcDecoder`, with the name of
    the file.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        targets: Sequence[Any] | None = None,
        *,
        decoder: UlcDecoder | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        if isinstance(files, str | Path):
            raise ValueError(f"files is a sequence of paths, got {files!r}")
        if targets is not None and len(targets) != len(files):
            raise ValueError(f"{len(files)} files, but {len(targets)} targets")
        self.files, self.targets = files, targets
        self.decoder, self.transform = decoder or UlcDecoder(), transform
        self.classes: list[str] = []

    @classmethod
    def of_folder(
        cls,
        folder: str | Path,
        *,
        decoder: UlcDecoder | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> "UlcDataset":
        """Make a dataset of a folder whose subfolders are classes, searched in depth, as torchvision's `ImageFolder`.

        `classes` has the names of the subfolders in order; the target is the index. Raises FileNotFoundError if there
        are no `.ulc` files.
        """
        folders = sorted(path for path in Path(folder).iterdir() if path.is_dir() and path.name[0] != ".")
        found = [
            (file, target)
            for target, path in enumerate(folders)
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() == ".ulc" and file.is_file()
        ]
        if not found:
            raise FileNotFoundError(f"no .ulc files in the subfolders of {folder}")
        files, targets = zip(*found, strict=True)
        dataset = cls(files, targets, decoder=decoder, transform=transform)
        dataset.classes = [path.name for path in folders]
        return dataset

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items at several indices, whose pictures are decoded together."""
        files = [(str(self.files[index]), Path(self.files[index]).read_bytes()) for index in indices]
        items: list[Any] = []
        for picture in self.decoder.attempt(files):
            if isinstance(picture, Exception):
                raise picture
            items.append(picture if self.transform is None else self.transform(picture))
        if self.targets is None:
            return items
        return [(item, self.targets[index]) for item, index in zip(items, indices, strict=True)]
