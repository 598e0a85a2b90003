/**
 * The integer prior, from the graphs of a model; the arithmetic is that of `ulcodec/graphs/graph_prior.py`.
 *
 * Arrays of a latent grid [h, w] are row-major, channels last. All integers are exact: float32 below 2^24, float64
 * below 2^53.
 */

import { PHASE_COLUMNS, PHASE_ROWS, phaseOf } from "./schedule.js";
import { outerSides, tiles } from "./tiles.js";

const ACTIVATION_BITS = 8;
const LARGEST_ACTIVATION = 127 << ACTIVATION_BITS;
const FACTOR_BITS = 12;
const MAX_LATENT = 2 ** 24;
const MEAN_BITS = 14;
const N_SCALES = 64;
const PRIOR_TILE = 96;
const HYPER_TILE = 32;
const HYPER_HALO = 1;
const N_PHASES = PHASE_ROWS * PHASE_COLUMNS;

/** What the prior carries from pass to pass. `pass`: the next one, from 1. */
class PriorState {
  pass = 1;
  /** @type {Int16Array | null} features of the pass before */ carried = null;

  constructor(hyperFeatures) {
    this.hyperFeatures = hyperFeatures;
  }

  copy() {
    return Object.assign(new PriorState(this.hyperFeatures), { pass: this.pass, carried: this.carried });
  }
}

export class Prior {
  /** `model`: see model.js. `quality`: 0 to 100. `grid`: height and width of the latent. */
  constructor(model, quality, grid) {
    this.model = model;
    this.quality = quality;
    this.grid = grid;
    this.hyperGrid = grid.map((side) => Math.ceil(side / 4));
    this.row = (name) => model.tableRow(name, quality);
  }

  /** The distribution of every position of the hyper-latent: means in sixteenths of a bin, and table indices. */
  get hyperParameters() {
    return { mean16: this.row("hyper_mean"), tableIndex: Uint8Array.from(this.row("hyper_index")) };
  }

  /** Begin the first pass. @param {Int32Array} hyper16 [h/4, w/4, C_hyper] in sixteenths of a bin */
  async begin(hyper16) {
    const { hyperChannels: nChannels, hyperWidth } = this.model;
    const [h, w] = this.grid;
    const gain = this.row("hyper_gain");
    const features = new Int16Array(h * w * hyperWidth);
    for (const tile of tiles(this.hyperGrid, HYPER_TILE, HYPER_HALO)) {
      const sides = outerSides(tile);
      const input = new Float32Array(sides[0] * sides[1] * nChannels);
      eachPosition(tile, this.hyperGrid[1], (position, within) => {
        for (let c = 0; c < nChannels; c++) {
          input[within * nChannels + c] = scaled(hyper16[position * nChannels + c], gain[c]);
        }
      });
      const results = await this.model.run("hyper", { hyper: [input, [1, ...sides, nChannels]] });
      const fine = Object.fromEntries(
        Object.entries(tile).map(([axis, span]) => [axis, scaledSpan(span, axis === "rows" ? h : w)]),
      );
      eachInnerPosition(fine, w, 4 * sides[1], (position, within) => {
        for (let c = 0; c < hyperWidth; c++) {
          features[position * hyperWidth + c] = results.features[within * hyperWidth + c];
        }
      });
    }
    return new PriorState(features);
  }

  /**
   * Predict the elements of the next pass: write their means into `y16`, and go to the pass after it.
   * @param {Int32Array} y16 [h, w, C] in sixteenths of a bin; elements of later passes are not read
   * @returns {Promise<Uint8Array>} table indices in the order of coding
   */
  async predict(y16, state) {
    const { schedule, latentChannels: nChannels, priorWidth } = this.model;
    const { pass } = state;
    const [h, w] = this.grid;
    const coded = schedule.coded(pass);
    const nCoded = coded[0].length;
    const indices = new Uint8Array(h * w * nCoded);
    if (nCoded === 0) {
      state.pass += 1;
      return indices;
    }
    const [gain, offset] = [this.row("mean_gain"), this.row("scale_offset")];
    const name = this.model.priorGraph(pass);
    let features = null;
    for (const tile of tiles(this.grid, PRIOR_TILE, this.model.priorHalo(pass))) {
      const results = await this.model.run(name, this.#inputs(tile, y16, state));
      const outerWidth = outerSides(tile)[1];
      if (results.features) features ??= new Int16Array(h * w * priorWidth);
      eachInnerPosition(tile, w, outerWidth, (position, within, row, column) => {
        const channels = coded[phaseOf(row, column)];
        for (let i = 0; i < nCoded; i++) {
          const c = channels[i];
          const mean = results.mean[within * nChannels + c] * gain[c];
          y16[position * nChannels + c] = shifted(mean, MEAN_BITS + ACTIVATION_BITS);
          const index = shifted(results.scale[within * nChannels + c] + offset[c], ACTIVATION_BITS);
          indices[position * nCoded + i] = Math.min(Math.max(index, 0), N_SCALES - 1);
        }
        if (results.features) {
          for (let c = 0; c < priorWidth; c++) {
            features[position * priorWidth + c] = results.features[within * priorWidth + c];
          }
        }
      });
    }
    state.pass += 1;
    state.carried = features;
    return indices;
  }

  /** The inputs of the prior's graph over a tile with its halo. */
  #inputs(tile, y16, { pass, hyperFeatures, carried }) {
    const { schedule, latentChannels: nChannels, hyperWidth, priorWidth } = this.model;
    const sides = outerSides(tile);
    const n = sides[0] * sides[1];
    const known = schedule.known(pass);
    const factor = this.row("estimate");
    const estimate = new Float32Array(n * nChannels);
    const cell = new Int32Array(2 * n); // int64, low words first
    eachPosition(tile, this.grid[1], (position, within, row, column) => {
      const phase = phaseOf(row, column);
      const channels = known[phase];
      cell[2 * within] = N_PHASES * (pass - 1) + phase;
      for (let i = 0; i < channels.length; i++) {
        const c = channels[i];
        estimate[within * nChannels + c] = scaled(y16[position * nChannels + c], factor[c]);
      }
    });
    const inputs = {
      estimate: [estimate, [1, ...sides, nChannels]],
      hyper_features: [part(hyperFeatures, hyperWidth, tile, this.grid[1]), [1, ...sides, hyperWidth]],
      cell: [new BigInt64Array(cell.buffer), sides],
      quality: [BigInt64Array.of(BigInt(this.quality)), [1]],
    };
    if (carried !== null) inputs.carried = [part(carried, priorWidth, tile, this.grid[1]), [1, ...sides, priorWidth]];
    return inputs;
  }
}

/** Turn an element in sixteenths of a bin into an activation, by an integer factor below 2^28. */
function scaled(element16, factor) {
  const product = Math.min(Math.max(element16, -MAX_LATENT), MAX_LATENT) * factor;
  return Math.min(Math.max(shifted(product, FACTOR_BITS), -LARGEST_ACTIVATION), LARGEST_ACTIVATION);
}

/** floor(x / 2^shift + 1/2) of an integer below 2^52. */
function shifted(x, shift) {
  return Math.floor(x / 2 ** shift + 0.5);
}

/** A span of the hyper-latent on the latent grid, whose side ends it. */
function scaledSpan(span, side) {
  const fine = Object.fromEntries(Object.entries(span).map(([name, value]) => [name, 4 * value]));
  return { ...fine, stop: Math.min(fine.stop, side) };
}

/** Call `visit(position, within, row, column)` for a tile with its halo: positions in the grid and in the tile. */
function eachPosition({ rows, columns }, width, visit) {
  let within = 0;
  for (let row = rows.outerStart; row < rows.outerStop; row++) {
    for (let column = columns.outerStart; column < columns.outerStop; column++) {
      visit(row * width + column, within++, row, column);
    }
  }
}

/** Like `eachPosition`, without the halo. `outerWidth`: columns of the tile with its halo. */
function eachInnerPosition({ rows, columns }, width, outerWidth, visit) {
  for (let row = rows.start; row < rows.stop; row++) {
    const first = (row - rows.outerStart) * outerWidth - columns.outerStart;
    for (let column = columns.start; column < columns.stop; column++) {
      visit(row * width + column, first + column, row, column);
    }
  }
}

/** The part of features [h, w, C] that a tile with its halo covers, as float32. */
function part(features, nChannels, { rows, columns }, width) {
  const rowLength = (columns.outerStop - columns.outerStart) * nChannels;
  const result = new Float32Array((rows.outerStop - rows.outerStart) * rowLength);
  for (let row = rows.outerStart; row < rows.outerStop; row++) {
    const start = (row * width + columns.outerStart) * nChannels;
    result.set(features.subarray(start, start + rowLength), (row - rows.outerStart) * rowLength);
  }
  return result;
}
