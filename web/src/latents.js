/** Segments to latents: the decoder's walk through the reveal passes, as in `ulcodec/coding/latents.py`. */

import { SymbolCheck } from "./checksums.js";
import { N_SEGMENTS } from "./container.js";
import { ArithmeticMismatchError } from "./errors.js";
import { Prior } from "./prior.js";
import { phaseOf } from "./schedule.js";
import { SymbolDecoder, decodeFront } from "./symbols.js";

/** Means and latents are in sixteenths of a bin. */
export const MEAN_GRID = 16;

/** Decodes the latent of one picture, segment by segment. */
export class LatentDecoder {
  /** @type {Int32Array} the latent [h, w, C] in sixteenths of a bin, as far as it is decoded */ y16;
  /** @type {Int32Array} the hyper-latent [h/4, w/4, C_hyper] in sixteenths of a bin */ hyper16;
  nDecoded = 0;

  #prior;
  #state = null;
  #check = new SymbolCheck();
  /** Table indices of the next pass, whose means are in `y16` already. */
  #indices = null;

  constructor(model, quality, [h, w]) {
    this.model = model;
    this.grid = [h, w];
    this.#prior = new Prior(model, quality, this.grid);
    this.y16 = new Int32Array(h * w * model.latentChannels);
  }

  /** Decode the next segment. Throws a CorruptDataError. */
  async decode(segment) {
    const decoder = new SymbolDecoder(segment);
    if (this.#state === null) {
      this.#decodeHyper(decoder);
      this.#state = await this.#prior.begin(this.hyper16);
    }
    await this.predict();
    const symbols = decoder.decode(this.#indices, this.model.tables);
    decoder.finish();
    this.#add(symbols);
  }

  /** Decode the front of the next segment, not the first. Elements that are not certain keep the prior's mean. */
  async decodeFront(front) {
    await this.predict();
    this.#add(decodeFront(front, this.#indices, this.model.tables));
  }

  /** Predict the next pass, unless that has been done. */
  async predict() {
    this.#indices ??= await this.#prior.predict(this.y16, this.#state);
  }

  /**
   * Give all elements that are not decoded the prior's mean, pass by pass. Decoding can go on afterwards: later passes
   * overwrite these elements before they read them. Between two passes, `isWanted()` says whether to go on.
   * @returns {Promise<boolean>} whether all passes are done
   */
  async conceal(isWanted = () => true) {
    if (this.nDecoded >= N_SEGMENTS) return true;
    await this.predict();
    const state = this.#state.copy();
    while (state.pass <= N_SEGMENTS && isWanted()) await this.#prior.predict(this.y16, state);
    return state.pass > N_SEGMENTS;
  }

  /** Throw an ArithmeticMismatchError if the symbols are not those that the encoder coded. */
  compareCheck(symbolCheck) {
    if (this.#check.value !== symbolCheck) {
      throw new ArithmeticMismatchError("the file is sound, but decoding gave other symbols than were encoded");
    }
  }

  #decodeHyper(decoder) {
    const { mean16, tableIndex } = this.#prior.hyperParameters;
    const [h, w] = this.#prior.hyperGrid;
    const indices = new Uint8Array(h * w * tableIndex.length);
    for (let start = 0; start < indices.length; start += tableIndex.length) indices.set(tableIndex, start);
    const symbols = decoder.decode(indices, this.model.tables);
    this.#check.update(symbols);
    this.hyper16 = symbols.map((symbol, i) => MEAN_GRID * symbol + mean16[i % mean16.length]);
  }

  /** Add the symbols of the next pass to the means in `y16`. */
  #add(symbols) {
    const coded = this.model.schedule.coded(this.nDecoded + 1);
    const nCoded = coded[0].length;
    const [h, w] = this.grid;
    this.#check.update(symbols);
    for (let row = 0, i = 0; row < h && nCoded; row++) {
      for (let column = 0; column < w; column++) {
        const channels = coded[phaseOf(row, column)];
        const first = (row * w + column) * this.model.latentChannels;
        for (let k = 0; k < nCoded; k++) this.y16[first + channels[k]] += MEAN_GRID * symbols[i++];
      }
    }
    this.#indices = null;
    this.nDecoded += 1;
  }
}
