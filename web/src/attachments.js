/** Contents of attachments: metadata, CICP, and the significant bits of 16-bit samples. */

import { KIND } from "./container.js";
import { CorruptDataError } from "./errors.js";

const MAX_METADATA_BYTES = 2 ** 24;
const MAX_SIGNIFICANT_BITS = 14;
const FIELDS = { [KIND.ICC]: "icc", [KIND.EXIF]: "exif", [KIND.XMP]: "xmp" };

/**
 * Decode a metadata attachment to a field of a picture. One that inflates to more than 16 MiB is left out.
 * @returns {Promise<Record<string, Uint8Array>>}
 */
export async function metadataField(kind, data) {
  if (kind === KIND.CICP) {
    if (data.length !== 4 || data[2] !== 0 || data[3] > 1) {
      throw new CorruptDataError("CICP that is not 4 bytes of an RGB picture");
    }
    return { cicp: data };
  }
  const inflated = await inflate(data);
  if (inflated === null) {
    console.warn(`${FIELDS[kind].toUpperCase()} of more than ${MAX_METADATA_BYTES} bytes is left out`);
    return {};
  }
  return { [FIELDS[kind]]: inflated };
}

/** Inflate raw deflate; null beyond `MAX_METADATA_BYTES`. */
async function inflate(data) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const chunks = [];
  let nBytes = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      nBytes += value.length;
      if (nBytes > MAX_METADATA_BYTES) {
        await reader.cancel();
        return null;
      }
    }
  } catch (error) {
    throw new CorruptDataError(`metadata that does not inflate: ${error.message}`);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** Scale 16-bit samples down to the significant bits of a file, in place. */
export function toSignificantBits(samples, bits, head) {
  if (bits.length !== 1 || bits[0] < 1 || bits[0] > MAX_SIGNIFICANT_BITS || head.bitDepth !== 16) {
    throw new CorruptDataError("significant bits that do not belong to the picture");
  }
  const peak = 2 ** bits[0] - 1;
  for (let i = 0; i < samples.length; i++) samples[i] = Math.floor((samples[i] * peak + 32767) / 65535);
}
