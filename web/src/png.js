/**
 * Pictures as PNG, so that the browser shows their colours: it knows ICC profiles, CICP, alpha and 16 bits.
 *
 * The samples are stored, not compressed: the file lives in memory only, and is made in no time.
 */

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const MAX_STORED = 65535;

let crcTable = null;

/**
 * @param {{width: number, height: number, bitDepth: number, nChannels: number, samples: Uint8Array | Uint16Array,
 *   icc?: Uint8Array, exif?: Uint8Array, xmp?: Uint8Array, cicp?: Uint8Array}} picture `nChannels`: 1 grey, 2 grey and
 *   alpha, 3 RGB, 4 RGB and alpha; alpha is straight
 * @returns {Blob}
 */
export function toPng({ width, height, bitDepth, nChannels, samples, icc, exif, xmp, cicp }) {
  const colourType = { 1: 0, 2: 4, 3: 2, 4: 6 }[nChannels];
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, bitDepth);
  header.setUint8(9, colourType);
  const text = (string) => new TextEncoder().encode(string);
  const chunks = [["IHDR", [new Uint8Array(header.buffer)]]];
  if (cicp) chunks.push(["cICP", [cicp]]);
  if (icc) chunks.push(["iCCP", [text("ICC profile\0\0"), ...stored([icc])]]);
  if (exif) chunks.push(["eXIf", [exif]]);
  if (xmp) chunks.push(["iTXt", [text("XML:com.adobe.xmp\0\0\0\0\0"), xmp]]);
  chunks.push(["IDAT", stored(rowsOf(samples, width * nChannels))], ["IEND", []]);
  return new Blob([SIGNATURE, ...chunks.flatMap(([type, parts]) => chunk(text(type), parts))], { type: "image/png" });
}

function chunk(type, parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return [bigEndian(length), type, ...parts, bigEndian(crc32([type, ...parts]))];
}

/** Rows of samples as bytes, each after its filter byte, 0. */
function rowsOf(samples, rowLength) {
  const sampleBytes = samples.BYTES_PER_ELEMENT;
  const rowBytes = 1 + rowLength * sampleBytes;
  const bytes = new Uint8Array((samples.length / rowLength) * rowBytes);
  for (let from = 0, to = 1; from < samples.length; from += rowLength, to += rowBytes) {
    const row = samples.subarray(from, from + rowLength);
    if (sampleBytes === 1) {
      bytes.set(row, to);
    } else {
      for (let i = 0; i < rowLength; i++) {
        bytes[to + 2 * i] = row[i] >> 8;
        bytes[to + 2 * i + 1] = row[i];
      }
    }
  }
  return [bytes];
}

/** A zlib stream of bytes that are not compressed (RFC 1950, 1951). */
function stored([bytes]) {
  const parts = [Uint8Array.of(0x78, 0x01)];
  for (let start = 0; start < bytes.length || start === 0; start += MAX_STORED) {
    const block = bytes.subarray(start, start + MAX_STORED);
    const n = block.length;
    const isLast = start + MAX_STORED >= bytes.length ? 1 : 0;
    parts.push(Uint8Array.of(isLast, n & 0xff, n >> 8, ~n & 0xff, (~n >> 8) & 0xff), block);
  }
  parts.push(bigEndian(adler32(bytes)));
  return parts;
}

function bigEndian(value) {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

function adler32(bytes) {
  let a = 1;
  let b = 0;
  for (let start = 0; start < bytes.length; start += 5552) {
    const stop = Math.min(start + 5552, bytes.length); // b stays below 2^32
    for (let i = start; i < stop; i++) {
      a += bytes[i];
      b += a;
    }
    a %= 65521;
    b %= 65521;
  }
  return b * 65536 + a;
}

function crc32(parts) {
  crcTable ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
    return byte;
  });
  let crc = 0xffffffff;
  for (const part of parts) for (let i = 0; i < part.length; i++) crc = (crc >>> 8) ^ crcTable[(crc ^ part[i]) & 0xff];
  return ~crc >>> 0;
}
