/** The reveal schedule: which channels each pass codes at each phase of the latent grid. */

import { N_SEGMENTS } from "./container.js";
import { ModelError } from "./errors.js";

export const PHASE_ROWS = 2;
export const PHASE_COLUMNS = 4;
const N_PHASES = PHASE_ROWS * PHASE_COLUMNS;
const N_CHANNEL_GROUPS = 16;

/**
 * @param {string[]} reveal one string for each of the 16 channel groups, with the pass of each phase
 * @param {number} nChannels channel c belongs to group c % 16
 */
export class Schedule {
  constructor(reveal, nChannels) {
    const isWhole = Array.isArray(reveal) && reveal.length === N_CHANNEL_GROUPS;
    if (!isWhole || !reveal.every((row) => /^[1-8]{8}$/.test(row))) {
      throw new ModelError("the model's reveal schedule is damaged");
    }
    /** Passes of the model, at least 1. */
    this.nPasses = Math.max(...reveal.join("").split("").map(Number));
    const passOf = (channel, phase) => Number(reveal[channel % N_CHANNEL_GROUPS][phase]);
    const channels = Array.from({ length: nChannels }, (_, channel) => channel);
    const select = (isSelected) =>
      Array.from({ length: N_PHASES }, (_, phase) => {
        return Uint16Array.from(channels.filter((channel) => isSelected(passOf(channel, phase))));
      });
    const passes = Array.from({ length: Math.max(this.nPasses, N_SEGMENTS) }, (_, i) => i + 1);
    this.#coded = passes.map((pass) => select((p) => p === pass));
    this.#known = passes.map((pass) => select((p) => p < pass));
  }

  #coded;
  #known;

  /** Channels that a pass, from 1, codes at each of the eight phases, in rising order. */
  coded(pass) {
    return this.#coded[pass - 1];
  }

  /** Channels that are known before a pass at each of the eight phases, in rising order. */
  known(pass) {
    return this.#known[pass - 1];
  }
}

/** The phase of a position of the latent grid. */
export function phaseOf(row, column) {
  return (row % PHASE_ROWS) * PHASE_COLUMNS + (column % PHASE_COLUMNS);
}
