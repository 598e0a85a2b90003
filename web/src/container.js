/** The container of a picture, docs/format.md section 1: parsed and verified, whole or while it arrives. */

import { Crc16 } from "./checksums.js";
import {
  ChecksumError,
  CorruptDataError,
  LimitError,
  NotUlcError,
  TruncatedError,
  UnsupportedVersionError,
} from "./errors.js";

export const N_SEGMENTS = 4;
export const MAX_PIXELS = 2 ** 28;
export const KIND = { ICC: 1, EXIF: 2, XMP: 3, ALPHA: 4, ALPHA_ULC: 5, CICP: 6, SIGNIFICANT_BITS: 7, SAMPLES: 8 };

const MAGIC = [0x55, 0x4c, 0x43];
const VERSION = 1;
const SEQUENCE_VERSION = 2;
const FIXED_HEADER_BYTES = 9;
const MAX_QUALITY = 100;
const MAX_SIDE = 2 ** 24 - 1;
export const MAX_BYTES = 2 ** 28 - 1;
const MAX_LEB128_BYTES = 4;

/**
 * Read an unsigned LEB128 of at most four bytes.
 * @returns {[number, number]} the number, and the position after it
 */
export function readLeb128(data, position, limit) {
  let value = 0;
  for (let i = 0; i < MAX_LEB128_BYTES; i++) {
    if (position + i >= data.length) throw new TruncatedError("the file ends inside a number");
    const byte = data[position + i];
    value |= (byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      if (value > limit) throw new LimitError(`a number in the file is ${value}; the limit is ${limit}`);
      if (i && !byte) throw new CorruptDataError("a number in the file is not in its shortest form");
      return [value, position + i + 1];
    }
  }
  throw new LimitError(`a number in the file is longer than ${MAX_LEB128_BYTES} bytes`);
}

/**
 * Parse the head of a file (steps 1 to 9 of the specification). It is not verified: its checksum comes later.
 * @returns {{fingerprint: string, quality: number, width: number, height: number, isGrey: boolean, bitDepth: number,
 *   hasAttachments: boolean, nSegments: number, isCut: boolean, nBytes: number}} `nBytes`: length of the head
 */
export function readHead(data, maxPixels = MAX_PIXELS) {
  if (!data.length || MAGIC.some((byte, i) => i < data.length && data[i] !== byte)) {
    throw new NotUlcError("not a .ulc file");
  }
  if (data.length < FIXED_HEADER_BYTES) throw new TruncatedError("the file ends inside its header");
  if (data[3] === SEQUENCE_VERSION) {
    throw new UnsupportedVersionError("the file is a sequence of frames, not a picture");
  }
  if (data[3] !== VERSION) {
    throw new UnsupportedVersionError(`format version ${data[3]}; this decoder reads version ${VERSION}`);
  }
  const fingerprint = Array.from(data.subarray(4, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const quality = data[8] & 0x7f;
  if (quality > MAX_QUALITY) throw new CorruptDataError(`quality ${quality} is out of range`);
  let width, height, position;
  [width, position] = readLeb128(data, FIXED_HEADER_BYTES, MAX_SIDE);
  [height, position] = readLeb128(data, position, MAX_SIDE);
  if (!width || !height) throw new CorruptDataError(`a picture of ${width}x${height} pixels`);
  let extension = 0;
  if (data[8] & 0x80) {
    if (position >= data.length) throw new TruncatedError("the file ends inside its header");
    extension = data[position++];
    const depth = (extension >> 2) & 3;
    const nSegments = (extension >> 5) & 3;
    const isMiscounted = extension & 0x80 ? nSegments === 1 : nSegments > 0;
    if (!extension || (extension & 3) > 1 || depth > 1 || isMiscounted) {
      throw new CorruptDataError(`unknown extension byte 0x${extension.toString(16)}`);
    }
  }
  if (width * height > maxPixels) {
    throw new LimitError(`the picture has ${width}x${height} pixels; the limit is ${maxPixels}`);
  }
  return {
    fingerprint,
    quality,
    width,
    height,
    isGrey: (extension & 3) === 1,
    bitDepth: extension & 4 ? 16 : 8,
    hasAttachments: (extension & 0x10) !== 0,
    nSegments: (extension >> 5) & 3 || N_SEGMENTS,
    isCut: (extension & 0x80) !== 0,
    nBytes: position,
  };
}

/**
 * Reads a file while it arrives: `push` bytes, then `end`. What has been read is verified by its checksum, and stays:
 * `head` from the first bytes on, unverified until `attachments` or the first of `segments` are there.
 */
export class ContainerReader {
  /** @type {ReturnType<typeof readHead> | null} */ head = null;
  /** @type {Map<number, Uint8Array> | null} kinds and contents, verified */ attachments = null;
  /** @type {Uint8Array[]} payloads, verified */ segments = [];
  /** @type {number | null} null for a file that was truncated on purpose */ symbolCheck = null;

  #buffer = new Uint8Array(2 ** 16);
  #nBytes = 0;
  #position = 0;
  #crc = new Crc16();
  #nChecked = 0;
  #maxPixels;

  constructor(maxPixels = MAX_PIXELS) {
    this.#maxPixels = maxPixels;
  }

  get nBytes() {
    return this.#nBytes;
  }

  /** Whether the samples are in the file without loss, so that no model is run. */
  get isLossless() {
    return this.attachments !== null && this.attachments.has(KIND.SAMPLES);
  }

  /** Take the next bytes. Throws a FormatError for damage that they show. */
  push(bytes) {
    if (this.#nBytes + bytes.length > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(2 * this.#buffer.length, this.#nBytes + bytes.length));
      larger.set(this.#data);
      this.#buffer = larger;
    }
    this.#buffer.set(bytes, this.#nBytes);
    this.#nBytes += bytes.length;
    try {
      this.#read(false);
    } catch (error) {
      if (!(error instanceof TruncatedError)) throw error; // more bytes may come
    }
  }

  /** Read the last segment, and verify the whole file. Throws a FormatError. */
  end() {
    this.#read(true);
  }

  get #data() {
    return this.#buffer.subarray(0, this.#nBytes);
  }

  #read(isWhole) {
    const data = this.#data;
    if (this.head === null) {
      this.head = readHead(data, this.#maxPixels);
      this.#position = this.head.nBytes;
    }
    this.attachments ??= this.#readAttachments(data);
    const { isCut, nSegments } = this.head;
    const end = data.length - 2;
    const lastStop = end - (isCut ? 0 : 2);
    while (this.segments.length < nSegments - 1) {
      const [length, start] = readLeb128(data, this.#position, MAX_BYTES);
      const stop = start + length;
      const number = this.segments.length;
      // While more bytes may come, the last ones at hand may be the end of the file.
      if (stop >= lastStop) throw new TruncatedError(`the file ends inside segment ${number}`);
      if (this.#crcUpTo(data, stop).crc8 !== data[stop]) {
        throw new ChecksumError(`the checksum of segment ${number} does not match: the file is damaged`);
      }
      this.segments.push(data.slice(start, stop));
      this.#position = stop + 1;
    }
    if (lastStop - this.#position > MAX_BYTES) {
      throw new LimitError(`the last segment is longer than ${MAX_BYTES} bytes`);
    }
    if (!isWhole) return;
    if (this.#crcUpTo(data, end).value !== ((data[end] << 8) | data[end + 1])) {
      throw new ChecksumError("the checksum of the file does not match: the file is damaged");
    }
    this.segments.push(data.slice(this.#position, lastStop));
    this.symbolCheck = isCut ? null : (data[lastStop] << 8) | data[lastStop + 1];
  }

  #readAttachments(data) {
    const attachments = new Map();
    if (!this.head.hasAttachments) return attachments;
    const spans = new Map();
    let position = this.head.nBytes;
    let lastKind = 0;
    for (;;) {
      if (position >= data.length) throw new TruncatedError("the file ends inside its attachments");
      const kind = data[position];
      if (kind === 0) break;
      if (kind > KIND.SAMPLES || kind <= lastKind) {
        throw new CorruptDataError(`an attachment of kind ${kind} does not belong there`);
      }
      const [length, start] = readLeb128(data, position + 1, MAX_BYTES);
      position = start + length;
      spans.set(kind, [start, position]);
      lastKind = kind;
    }
    if (!spans.size) throw new CorruptDataError("the header promises attachments");
    if (position + 1 >= data.length) throw new TruncatedError("the file ends inside its attachments");
    if (this.#crcUpTo(data, position + 1).crc8 !== data[position + 1]) {
      throw new ChecksumError("the checksum of the attachments does not match: the file is damaged");
    }
    for (const [kind, [start, stop]] of spans) attachments.set(kind, data.slice(start, stop));
    this.#position = position + 2;
    return attachments;
  }

  /** The checksum of the first `stop` bytes. */
  #crcUpTo(data, stop) {
    this.#crc.update(data.subarray(this.#nChecked, stop));
    this.#nChecked = stop;
    return this.#crc;
  }
}

/** Parse and verify a whole file (steps 1 to 13). Throws a FormatError. */
export function parseContainer(data, maxPixels = MAX_PIXELS) {
  const reader = new ContainerReader(maxPixels);
  reader.push(data);
  reader.end();
  return reader;
}
