/** The range decoder of docs/format.md, section 2, without BigInt in its inner loop. */

import { CorruptDataError } from "./errors.js";

const TOTAL = 2 ** 24;
const WORD = 2 ** 32;
const HALF = 2 ** 20;

/** What a reader of a payload throws for bytes that no encoder writes. */
export function corrupt() {
  return new CorruptDataError("a segment holds data that no encoder writes");
}

/**
 * Decodes entries from a byte string. The state of 64 bits is in doubles, each of them an integer that is exact:
 * `offset` in two halves of 32 bits, and `unit = floor(width / 2^24)`, below 2^40, in place of the width.
 */
export class RangeDecoder {
  #data;
  #padding;
  #position = 8;
  #unit = 2 ** 40 - 1;
  #high;
  #low;

  /** `padding`: the byte that follows the end of the data, again and again. */
  constructor(data, padding = 0) {
    this.#data = data;
    this.#padding = padding;
    this.#high = this.#word(0);
    this.#low = this.#word(4);
  }

  /** Decode an entry of a table with cumulative frequencies `below`, of one element more than the table has entries. */
  decode(below) {
    const unit = this.#unit;
    const target = (this.#high * WORD + this.#low) / unit; // rounded: near a boundary, the neighbour may be meant
    let first = 0;
    let last = below.length - 2;
    while (first < last) {
      const middle = (first + last + 1) >> 1;
      if (below[middle] <= target) first = middle;
      else last = middle - 1;
    }
    const unitHigh = Math.floor(unit / HALF);
    const unitLow = unit - unitHigh * HALF;
    for (;;) {
      // unit * below[first], in halves: both products are below 2^44
      const product = unitLow * below[first];
      const carry = Math.floor(product / HALF);
      const upper = unitHigh * below[first] + carry;
      const productHigh = Math.floor(upper / 4096);
      let low = this.#low - ((upper - productHigh * 4096) * HALF + (product - carry * HALF));
      let high = this.#high - productHigh;
      if (low < 0) {
        low += WORD;
        high -= 1;
      }
      if (high < 0) {
        first -= 1;
        continue;
      }
      const frequency = below[first + 1] - below[first];
      const lowProduct = unitLow * frequency;
      const lowCarry = Math.floor(lowProduct / HALF);
      const widthUpper = unitHigh * frequency + lowCarry;
      const widthHigh = Math.floor(widthUpper / 4096);
      const widthLow = (widthUpper - widthHigh * 4096) * HALF + (lowProduct - lowCarry * HALF);
      if (high > widthHigh || (high === widthHigh && low >= widthLow)) {
        first += 1;
        if (first > below.length - 2) throw corrupt();
        continue;
      }
      if (widthHigh === 0) {
        this.#unit = widthLow * 256;
        this.#high = low;
        this.#low = this.#word(this.#position);
        this.#position += 4;
      } else {
        this.#unit = Math.floor(widthUpper / 16);
        this.#high = high;
        this.#low = low;
      }
      this.#widthHigh = widthHigh;
      this.#widthLow = widthLow;
      return first;
    }
  }

  #widthHigh = WORD - 1;
  #widthLow = WORD - 1;

  /** Read a number of `width` bits, highest first. */
  decodeBits(width) {
    let value = 0;
    for (let bit = 0; bit < width; bit++) value = 2 * value + this.decode(FAIR_BIT);
    return value;
  }

  /**
   * Check that the data are the string that an encoder writes for the decoded entries: the shortest one in the final
   * interval `[low, low + width)`, and of these the smallest. `offset` is what the data exceed `low` by.
   */
  finish() {
    const data = this.#data;
    const n = data.length;
    if (n === 0) return; // then low is 0
    if (n > this.#position || data[n - 1] === 0) throw corrupt();
    const nUnread = this.#position - n; // bytes of the state behind the data
    if (nUnread >= 8) return; // a step of the last byte exceeds the width
    const isShifted = this.#widthHigh === 0;
    const [widthHigh, widthLow] = isShifted ? [this.#widthLow, 0] : [this.#widthHigh, this.#widthLow];
    const offset = (BigInt(this.#high) << 32n) + BigInt(this.#low);
    const width = (BigInt(widthHigh) << 32n) + BigInt(widthLow);
    const step = 1n << BigInt(8 * nUnread);
    const nextShorter = offset + step * BigInt(256 - data[n - 1]);
    if (offset >= step || nextShorter < width) throw corrupt();
  }

  #word(position) {
    let word = 0;
    for (let i = position; i < position + 4; i++) {
      word = word * 256 + (i < this.#data.length ? this.#data[i] : this.#padding);
    }
    return word;
  }
}

const FAIR_BIT = Float64Array.of(0, TOTAL / 2, TOTAL);
