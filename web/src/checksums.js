/** Checksums of docs/format.md, section 1, which can go on as bytes arrive. */

const SEED = 0xffff;
const FINAL_XOR = 0xffff;
const CRC8_SEED = 0xff;

const CRC16 = Uint16Array.from({ length: 256 }, (_, byte) => reduced(byte << 8, 16, 0x1021));
const CRC8 = Uint8Array.from({ length: 256 }, (_, byte) => reduced(byte, 8, 0x07));

/** The remainder after eight bits. `width`: bits of the remainder. */
function reduced(value, width, polynomial) {
  const top = 1 << (width - 1);
  for (let bit = 0; bit < 8; bit++) {
    value = value & top ? (value << 1) ^ polynomial : value << 1;
  }
  return value & (2 * top - 1);
}

/** CRC-16/GENIBUS of bytes, one part after another. */
export class Crc16 {
  #remainder = SEED;

  update(bytes) {
    let remainder = this.#remainder;
    for (let i = 0; i < bytes.length; i++) {
      remainder = ((remainder << 8) & 0xffff) ^ CRC16[(remainder >> 8) ^ bytes[i]];
    }
    this.#remainder = remainder;
  }

  /** The CRC-16 of all bytes so far. */
  get value() {
    return this.#remainder ^ FINAL_XOR;
  }

  /** The CRC-8 of all bytes so far: that of the two bytes of the CRC-16. */
  get crc8() {
    const value = this.value;
    return CRC8[CRC8[CRC8_SEED ^ (value >> 8)] ^ (value & 0xff)];
  }
}

const MAX_TABLED = 128;
let symbolSteps = null;

/** Tables of `SymbolCheck`: the remainder after four zero bytes; and the remainders of small symbols alone. */
function tablesOfSymbols() {
  const step = (remainder, byte) => ((remainder << 8) & 0xffff) ^ CRC16[(remainder >> 8) ^ byte];
  const fourBytes = (remainder, word) => {
    for (let shift = 0; shift < 32; shift += 8) remainder = step(remainder, (word >>> shift) & 0xff);
    return remainder;
  };
  const zeros = Uint16Array.from({ length: 1 << 16 }, (_, remainder) => fourBytes(remainder, 0));
  const small = Uint16Array.from({ length: 2 * MAX_TABLED + 1 }, (_, i) => fourBytes(0, i - MAX_TABLED));
  return { zeros, small, fourBytes };
}

/** CRC-16 without its final XOR of symbols, each as a little-endian int32, in the order of coding. */
export class SymbolCheck {
  value = SEED;

  /** @param {Int32Array} symbols */
  update(symbols) {
    symbolSteps ??= tablesOfSymbols();
    const { zeros, small, fourBytes } = symbolSteps;
    let remainder = this.value;
    for (let i = 0; i < symbols.length; i++) {
      const symbol = symbols[i];
      if (symbol === 0) remainder = zeros[remainder];
      else if (symbol >= -MAX_TABLED && symbol <= MAX_TABLED) remainder = zeros[remainder] ^ small[symbol + MAX_TABLED];
      else remainder = fourBytes(remainder, symbol);
    }
    this.value = remainder;
  }
}
