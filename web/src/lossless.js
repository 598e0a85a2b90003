/** Lossless samples in a file: tiles of lossless WebP, which the browser decodes. */

import { MAX_BYTES, readLeb128 } from "./container.js";
import { CorruptDataError } from "./errors.js";

const TILE_PX = 8192;
const ALPHA_BIT = 0x10; // "alpha is used", in the last byte of a VP8L header

/**
 * Decode tiles to the samples of a picture. Alpha in a tile has no meaning.
 * @param {number} nSamples 3 for red, green and blue; 1 for green alone
 * @param {string} what the name of the samples in errors
 * @returns {Promise<Uint8Array>} [H, W, nSamples]
 */
export async function decodeLossless(data, { width, height }, nSamples, what) {
  const samples = new Uint8Array(width * height * nSamples);
  let position = 0;
  for (let top = 0; top < height; top += TILE_PX) {
    for (let left = 0; left < width; left += TILE_PX) {
      const [length, start] = readLeb128(data, position, MAX_BYTES);
      position = start + length;
      const area = { left, top, width: Math.min(TILE_PX, width - left), height: Math.min(TILE_PX, height - top) };
      const rgba = await decodeTile(data.slice(start, position), area, what);
      for (let y = 0, i = 0; y < area.height; y++) {
        let to = ((top + y) * width + left) * nSamples;
        for (let x = 0; x < area.width; x++, i += 4) {
          if (nSamples === 1) samples[to++] = rgba[i + 1];
          else for (let c = 0; c < 3; c++) samples[to++] = rgba[i + c];
        }
      }
    }
  }
  if (position !== data.length) throw new CorruptDataError(`bytes after ${what}`);
  return samples;
}

async function decodeTile(file, { width, height }, what) {
  if (!isLossless(file, width, height)) {
    throw new CorruptDataError(`${what} that is no lossless WebP of its picture's size`);
  }
  file[24] &= ~ALPHA_BIT; // a canvas would multiply the colours by alpha
  try {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const bitmap = await createImageBitmap(new Blob([file], { type: "image/webp" }), options);
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, width, height).data;
  } catch (error) {
    throw new CorruptDataError(`${what} that cannot be read: ${error.message}`);
  }
}

/** Whether a WebP file holds one lossless picture of these sides, and nothing before it (RFC 9649). */
function isLossless(file, width, height) {
  const text = new TextDecoder("latin1").decode(file.subarray(0, 16));
  if (file.length < 25 || !text.startsWith("RIFF") || text.slice(8) !== "WEBPVP8L" || file[20] !== 0x2f) return false;
  const packed = file[21] | (file[22] << 8) | (file[23] << 16) | (file[24] << 24);
  return (packed & 0x3fff) + 1 === width && ((packed >> 14) & 0x3fff) + 1 === height;
}
