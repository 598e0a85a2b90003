/** Latents to samples, tile by tile, as in `ulcodec/codec/tiling.py`. */

import { MEAN_GRID } from "./latents.js";
import { outerSides, tiles } from "./tiles.js";

const PATCH_PX = 16;
const TILE = 96;

/** Height and width of the latent of a picture. */
export function gridOf({ height, width }) {
  return [Math.ceil(height / PATCH_PX), Math.ceil(width / PATCH_PX)];
}

/**
 * Decode a latent to the samples of its picture.
 * @param {Int32Array} y16 [h, w, C] in sixteenths of a bin
 * @param {ReturnType<import("./container.js").readHead>} head
 * @returns {Promise<Uint8Array | Uint16Array>} [H, W, 3], or [H, W] for grey
 */
export async function synthesise(model, y16, head) {
  const { width, height, isGrey, bitDepth } = head;
  const grid = gridOf(head);
  const nChannels = model.latentChannels;
  const nSamples = isGrey ? 1 : 3;
  const samples = new (bitDepth === 16 ? Uint16Array : Uint8Array)(width * height * nSamples);
  const peak = 2 ** bitDepth - 1;
  const quality = Float32Array.of(head.quality / 100);
  for (const tile of tiles(grid, TILE, model.decoderHalo)) {
    const { rows, columns } = tile;
    const sides = outerSides(tile);
    const latent = new Float32Array(sides[0] * sides[1] * nChannels);
    const rowLength = sides[1] * nChannels;
    for (let row = 0; row < sides[0]; row++) {
      const start = ((rows.outerStart + row) * grid[1] + columns.outerStart) * nChannels;
      for (let i = 0; i < rowLength; i++) latent[row * rowLength + i] = y16[start + i] / MEAN_GRID;
    }
    const inputs = { latent: [latent, [1, ...sides, nChannels]], quality: [quality, [1]] };
    const { picture } = await model.run("synthesis", inputs);
    const pictureWidth = sides[1] * PATCH_PX;
    const right = Math.min(columns.stop * PATCH_PX, width);
    for (let y = rows.start * PATCH_PX; y < Math.min(rows.stop * PATCH_PX, height); y++) {
      const firstColumn = (columns.start - columns.outerStart) * PATCH_PX;
      let from = 3 * ((y - rows.outerStart * PATCH_PX) * pictureWidth + firstColumn);
      let to = (y * width + columns.start * PATCH_PX) * nSamples;
      for (let x = columns.start * PATCH_PX; x < right; x++, from += 3) {
        if (isGrey) {
          samples[to++] = quantised((picture[from] + picture[from + 1] + picture[from + 2]) / 3, peak);
        } else {
          samples[to++] = quantised(picture[from], peak);
          samples[to++] = quantised(picture[from + 1], peak);
          samples[to++] = quantised(picture[from + 2], peak);
        }
      }
    }
  }
  return samples;
}

/** The sample nearest to a value about [0, 1]. */
function quantised(value, peak) {
  return Math.floor(Math.min(Math.max(value, 0), 1) * peak + 0.5);
}
