/** Errors of reading a `.ulc` file. Their names are those of `ulcodec/errors.py` and of docs/format.md. */

export class UlcError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** The bytes are not a valid `.ulc` file. */
export class FormatError extends UlcError {}
export class NotUlcError extends FormatError {}
export class UnsupportedVersionError extends FormatError {}
export class TruncatedError extends FormatError {}
export class LimitError extends FormatError {}
export class ChecksumError extends FormatError {}
export class CorruptDataError extends FormatError {}
export class ArithmeticMismatchError extends FormatError {}

/** A model or onnxruntime-web cannot be fetched, or does not fit this decoder. */
export class ModelError extends UlcError {}
export class UnknownModelError extends ModelError {}

/** The file cannot be fetched. */
export class SourceError extends UlcError {}

const CLASSES = [
  UlcError,
  FormatError,
  NotUlcError,
  UnsupportedVersionError,
  TruncatedError,
  LimitError,
  ChecksumError,
  CorruptDataError,
  ArithmeticMismatchError,
  ModelError,
  UnknownModelError,
  SourceError,
];
const BY_NAME = new Map(CLASSES.map((type) => [type.name, type]));

/** An error as a message between threads: `{name, message}`. */
export function toMessage(error) {
  return { name: error.name, message: error.message };
}

/** Inverts `toMessage`. An error that is none of ours becomes a plain Error of that name. */
export function fromMessage({ name, message }) {
  const type = BY_NAME.get(name);
  return type ? new type(message) : Object.assign(new Error(message), { name });
}
