/** Groups of symbols from a payload: frequency tables, their order, and escapes (docs/format.md, section 2). */

import { ModelError } from "./errors.js";
import { RangeDecoder, corrupt } from "./range-decoder.js";

const TOTAL = 2 ** 24;
const MAX_TABLES = 256;
const MAX_TABLE_LENGTH = 4096;
const MAX_SYMBOL = 2 ** 20 - 1;
const HEAD_BITS = 5;

/** The tables of a model, from the int32 arrays `frequencies` [T, L], `lengths` [T] and `minima` [T]. */
export class FrequencyTables {
  constructor(frequencies, lengths, minima) {
    const width = frequencies.length / lengths.length;
    this.n = lengths.length;
    if (this.n < 1 || this.n > MAX_TABLES || this.n !== minima.length || !Number.isInteger(width)) {
      throw new ModelError("the model's frequency tables have other shapes than expected");
    }
    this.minima = minima;
    /** Position of each table's escape; 0 for a table that is not coded. */
    this.escapes = lengths.map((length) => length - 1);
    /** Sums of the frequencies before each entry, and the total. */
    this.below = Array.from(lengths, (length, table) => {
      const row = frequencies.subarray(table * width, table * width + length);
      const below = new Float64Array(length + 1);
      row.forEach((frequency, entry) => (below[entry + 1] = below[entry] + frequency));
      const isLegal = length >= 1 && length <= MAX_TABLE_LENGTH && row.length === length && row.every((f) => f >= 1);
      if (!isLegal || below[length] !== TOTAL) throw new ModelError(`the model's frequency table ${table} is damaged`);
      return below;
    });
  }
}

/** A payload that is read group by group. */
export class SymbolDecoder {
  #decoder;

  constructor(payload) {
    this.#decoder = new RangeDecoder(payload);
  }

  /**
   * Decode the symbols under the tables that `tableIndex` names.
   * @param {Uint8Array} tableIndex
   * @returns {Int32Array} of the same length
   */
  decode(tableIndex, tables) {
    const decoder = this.#decoder;
    const entries = new SortedEntries(tableIndex, tables);
    let nEscapes = 0;
    entries.eachRun((table, start, stop) => {
      const below = tables.below[table];
      const escape = tables.escapes[table];
      for (let i = start; i < stop; i++) {
        const entry = decoder.decode(below);
        entries.values[i] = entry;
        if (entry === escape) nEscapes++;
      }
    });
    const heads = Array.from({ length: nEscapes }, () => [decoder.decodeBits(HEAD_BITS), decoder.decodeBits(1)]);
    const escapes = heads.map(([k, isBelow]) => ({ distance: 2 ** k + decoder.decodeBits(k), isBelow }));
    return entries.symbols(escapes);
  }

  /** Throw a CorruptDataError unless the payload is what an encoder writes for what has been decoded. */
  finish() {
    this.#decoder.finish();
  }
}

/**
 * Decode a group from the front of its payload. A symbol is certain if it is the same whatever bytes follow; an escape
 * never is. Symbols that are not certain are 0.
 */
export function decodeFront(payload, tableIndex, tables) {
  const lowest = new RangeDecoder(payload, 0);
  const highest = new RangeDecoder(payload, 0xff);
  const entries = new SortedEntries(tableIndex, tables);
  let isCertain = true;
  entries.eachRun((table, start, stop) => {
    const below = tables.below[table];
    for (let i = start; i < stop; i++) {
      let entry = tables.escapes[table]; // stands for "not certain" as well
      if (isCertain) {
        try {
          entry = lowest.decode(below);
          isCertain = entry === highest.decode(below);
        } catch {
          isCertain = false;
        }
        if (!isCertain) entry = tables.escapes[table];
      }
      entries.values[i] = entry;
    }
  });
  return entries.symbols(null);
}

/** The entries of a group in the order of coding: table by table from the last, within a table as in the group. */
class SortedEntries {
  #tableIndex;
  #tables;
  #starts;

  constructor(tableIndex, tables) {
    this.#tableIndex = tableIndex;
    this.#tables = tables;
    const counts = new Uint32Array(tables.n);
    for (let i = 0; i < tableIndex.length; i++) counts[tableIndex[i]]++;
    this.#starts = new Uint32Array(tables.n + 1);
    let start = 0;
    for (let table = tables.n - 1; table >= 0; table--) {
      this.#starts[table] = start;
      if (tables.escapes[table] > 0) start += counts[table];
    }
    this.counts = counts;
    this.values = new Uint16Array(start);
  }

  /** Call `visit(table, start, stop)` for each table that codes elements. */
  eachRun(visit) {
    for (let table = this.#tables.n - 1; table >= 0; table--) {
      const count = this.#tables.escapes[table] > 0 ? this.counts[table] : 0;
      if (count) visit(table, this.#starts[table], this.#starts[table] + count);
    }
  }

  /** The symbols in the order of the group. `escapes`: those of the escaped ones; null if unknown, which gives 0. */
  symbols(escapes) {
    const tableIndex = this.#tableIndex;
    const { minima, escapes: escapeOf } = this.#tables;
    const next = this.#starts.slice();
    const symbols = new Int32Array(tableIndex.length);
    let nEscapes = 0;
    for (let i = 0; i < symbols.length; i++) {
      const table = tableIndex[i];
      const escape = escapeOf[table];
      if (escape === 0) continue;
      const entry = this.values[next[table]++];
      if (entry !== escape) symbols[i] = minima[table] + entry;
      else if (escapes !== null) symbols[i] = escapedSymbol(escapes[nEscapes++], minima[table], escape);
    }
    return symbols;
  }
}

function escapedSymbol({ distance, isBelow }, minimum, nCovered) {
  const symbol = isBelow ? minimum - distance : minimum + nCovered - 1 + distance;
  if (Math.abs(symbol) > MAX_SYMBOL) throw corrupt();
  return symbol;
}
