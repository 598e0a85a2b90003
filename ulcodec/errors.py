"""All errors that ulcodec raises on purpose.

    UlcError
    ├── FormatError                  the bytes are not a valid .ulc file
    │   ├── NotUlcError              no ULC magic: some other kind of file
    │   ├── UnsupportedVersionError  a format version newer than this reader
    │   ├── TruncatedError           the file ends before its declared end
    │   ├── LimitError               a declared size is beyond the caps
    │   ├── ChecksumError            a checksum does not match: the file is damaged
    │   ├── CorruptDataError         the checksum holds, but no encoder writes such contents
    │   └── ArithmeticMismatchError  decoding gave other symbols than encoding did
    ├── ImageError                   the input is not a picture that can be coded
    ├── LocationError                a URL that cannot be listed, read or written
    ├── ModelError                   a model directory is missing, incomplete or inconsistent
    │   └── UnknownModelError        the file was made by a model that is not installed
    ├── DeviceError                  a device that torch does not know or cannot use
    ├── MissingPackageError          an optional package is not installed
    ├── TrainingError                a training run cannot start or had to stop
    └── BenchmarkError               a benchmark or measure cannot start, or a codec in it failed

Errors of other libraries are wrapped where they enter, so that `except UlcError` is enough.
"""


class UlcError(Exception):
    """Base class of all errors that ulcodec raises on purpose."""


class FormatError(UlcError):
    """The bytes are not a valid `.ulc` file."""


class NotUlcError(FormatError):
    """The file does not begin with the ULC magic."""


class UnsupportedVersionError(FormatError):
    """The format version is not one that this reader knows."""


class TruncatedError(FormatError):
    """The file ends before its declared end."""


class LimitError(FormatError):
    """A declared size is beyond the caps of the format or of the caller."""


class ChecksumError(FormatError):
    """A checksum does not match: the file is damaged."""


class CorruptDataError(FormatError):
    """The checksums hold, but the contents are not something an encoder writes."""


class ArithmeticMismatchError(FormatError):
    """The checksums hold, but decoding gave other symbols than encoding: an error of the machine, or a forgery."""


class ImageError(UlcError):
    """The input is not a picture that can be coded."""


class LocationError(UlcError):
    """A URL whose driver is missing, or that cannot be listed, read or written."""


class ModelError(UlcError):
    """A model directory is missing, incomplete or inconsistent."""


class UnknownModelError(ModelError):
    """The file was made by a model that is not installed."""


class DeviceError(UlcError):
    """The device is unknown to torch, or cannot be used."""


class MissingPackageError(UlcError):
    """An optional package is not installed."""


class TrainingError(UlcError):
    """A training run cannot start, or had to stop."""


class BenchmarkError(UlcError):
    """A benchmark or measure cannot start, or a codec that it runs failed."""
