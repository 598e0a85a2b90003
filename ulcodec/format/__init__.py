"""The `.ulc` file format: bytes only, without torch and without a model.

`container` parses and writes a picture, `attachments` its metadata, `lossless` its lossless samples, `cicp` its colour
code points. `sequence` writes the records of a clip, `sequence_reader` reads them. `primitives` has numbers and
checksums. `docs/format.md` is the specification.

Import `Container`, `Header`, `read_head` and `Attachment` from `container`. Every error is a `FormatError`. The package
imports nothing of ulcodec but `errors`.
"""
