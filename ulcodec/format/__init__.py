"""The `.ulc` file format: bytes only, without torch and without a model.

`container` parses and writes a file, `attachments` its metadata, `lossless` its lossless samples, `cicp` its colour
code points, `primitives` its numbers and checksums. `docs/format.md` is the specification.

Import `Container`, `Header`, `read_head` and `Attachment` from `container`. Every error is a `FormatError`. The package
imports nothing of ulcodec but `errors`.
"""
