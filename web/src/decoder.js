/** Files to pictures: one map of the stages, from bytes as they arrive to samples. */

import { metadataField, toSignificantBits } from "./attachments.js";
import { ContainerReader, KIND, MAX_PIXELS } from "./container.js";
import { CorruptDataError, FormatError } from "./errors.js";
import { LatentDecoder } from "./latents.js";
import { decodeLossless } from "./lossless.js";
import { gridOf, synthesise } from "./synthesis.js";

const OF_SAMPLES = [KIND.SIGNIFICANT_BITS, KIND.SAMPLES];

/**
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {number} bitDepth 8 or 16
 * @property {number} nChannels 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; alpha is straight
 * @property {Uint8Array | Uint16Array} samples [H, W, nChannels]
 * @property {Uint8Array} [icc]
 * @property {Uint8Array} [exif]
 * @property {Uint8Array} [xmp]
 * @property {Uint8Array} [cicp] 4 bytes, as in PNG's chunk cICP
 */

/**
 * Decode a file while it arrives.
 * @param {AsyncIterable<Uint8Array> | Iterable<Uint8Array>} chunks the bytes of the file
 * @param {import("./model.js").ModelStore} store
 * @param {object} [options]
 * @param {number} [options.maxPixels] largest picture to decode
 * @param {(head: object) => void} [options.onHead] called when the size of the picture is known and verified
 * @param {(picture: Picture, nSegments: number) => void} [options.onPreview] called for a picture of the segments that
 *   have arrived, while more are on their way
 * @param {AbortSignal} [options.signal] ends the download and the work on the picture; the error then has no meaning
 * @returns {Promise<{picture: Picture, file: ContainerReader}>}
 * @throws FormatError as docs/format.md says, UnknownModelError, ModelError
 */
export async function decode(chunks, store, { maxPixels = MAX_PIXELS, onHead, onPreview, signal } = {}) {
  const file = new ArrivingFile(chunks, maxPixels);
  try {
    await file.until(() => file.attachments !== null);
    if (!file.isLossless) await file.until(() => file.segments.length > 0);
    onHead?.(file.head);
    const { fingerprint } = file.head;
    const load = async () => (await store.load(fingerprint)).until(signal);
    if (file.isLossless) {
      await store.find(fingerprint);
      return { picture: await restoreLossless(file, load), file };
    }
    const model = await load();
    const preview = onPreview && (async (latent) => drawPreview(file, latent, model, onPreview));
    return { picture: await decodeArriving(file, model, preview), file };
  } catch (error) {
    await file.end(); // an error of the file as a whole comes before those of its contents
    throw error;
  }
}

/** Decode the segments one after another, each as soon as it is there, and restore the picture. */
async function decodeArriving(file, model, preview) {
  const { isCut, nSegments } = file.head;
  const latent = new LatentDecoder(model, file.head.quality, gridOf(file.head));
  for (let number = 0; number < (isCut ? nSegments - 1 : nSegments); number++) {
    if (number > 0 && file.segments.length <= number) await preview?.(latent);
    await file.until(() => file.segments.length > number);
    await latent.decode(file.segments[number]);
  }
  await file.end();
  if (isCut) {
    await latent.decodeFront(file.segments.at(-1));
    await latent.conceal();
  } else {
    latent.compareCheck(file.symbolCheck);
  }
  return restore(file, model, latent);
}

/** Draw the picture of the segments so far. Stops when the rest of the file has arrived. */
async function drawPreview(file, latent, model, onPreview) {
  const isWanted = () => !file.isComplete;
  try {
    if (!(await latent.conceal(isWanted)) || !isWanted()) return;
    onPreview(await restore(file, model, latent), latent.nDecoded);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error; // decoding will come to it, in the order of the specification
  }
}

/** Synthesise the picture of a latent, with the metadata and alpha of its file. */
async function restore(file, model, latent) {
  const extras = await file.extras((data) => decodeAlpha(data, file.head, model));
  const samples = await synthesise(model, latent.y16, file.head);
  const bits = file.attachments.get(KIND.SIGNIFICANT_BITS);
  if (bits) toSignificantBits(samples, bits, file.head);
  return withAlpha(file.head, samples, extras);
}

/** Restore the picture of a file that holds its samples without loss. `load`: loads its model, for alpha alone. */
async function restoreLossless(file, load) {
  await file.end();
  const { head, attachments } = file;
  if (head.bitDepth !== 8 || file.segments.some((segment) => segment.length) || file.symbolCheck) {
    throw new CorruptDataError("samples that do not belong to the picture");
  }
  const samples = await decodeLossless(attachments.get(KIND.SAMPLES), head, head.isGrey ? 1 : 3, "samples");
  return withAlpha(head, samples, await file.extras(async (data) => decodeAlpha(data, head, await load())));
}

/** Decode the `.ulc` file of an alpha channel: plain 8-bit grey, of the size of its picture. */
async function decodeAlpha(data, head, model) {
  const file = new ArrivingFile([data], head.width * head.height);
  await file.end();
  model.check(file.head.fingerprint);
  const isPlain = file.head.isGrey && file.head.bitDepth === 8 && !file.attachments.size;
  if (!isPlain || file.head.width !== head.width || file.head.height !== head.height) {
    throw new CorruptDataError("an alpha channel that does not belong to its picture");
  }
  return (await decodeArriving(file, model)).samples;
}

/** Put samples and alpha together. */
function withAlpha({ width, height, isGrey, bitDepth }, samples, { alpha, ...metadata }) {
  const nColours = isGrey ? 1 : 3;
  const picture = { width, height, bitDepth, nChannels: nColours, samples, ...metadata };
  if (!alpha) return picture;
  const n = width * height;
  const nChannels = nColours + 1;
  const together = new samples.constructor(n * nChannels);
  const scale = bitDepth === 16 ? 257 : 1;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < nColours; c++) together[i * nChannels + c] = samples[i * nColours + c];
    together[i * nChannels + nColours] = scale * alpha[i];
  }
  return { ...picture, nChannels, samples: together };
}

/** A file whose bytes are on their way: reads them by itself, and tells what has arrived. */
class ArrivingFile extends ContainerReader {
  isComplete = false;
  #failure = null;
  #wake = () => {};
  #reading;
  #extras = null;

  constructor(chunks, maxPixels) {
    super(maxPixels);
    this.#reading = this.#readAll(chunks);
  }

  async #readAll(chunks) {
    try {
      for await (const chunk of chunks) {
        this.push(chunk);
        this.#wake();
      }
      super.end();
      this.isComplete = true;
    } catch (error) {
      this.#failure = error;
    }
    this.#wake();
  }

  /** Wait until `isThere()`. Throws the error of the file, if it has one. */
  async until(isThere) {
    while (!isThere() && !this.isComplete && !this.#failure) await new Promise((resolve) => (this.#wake = resolve));
    if (this.#failure) throw this.#failure;
  }

  /** Wait for the last byte. Throws the error of the file, if it has one. */
  async end() {
    await this.#reading;
    if (this.#failure) throw this.#failure;
  }

  /** Metadata and alpha, in the order of their kinds. `decodeUlc` decodes the `.ulc` file of an alpha channel. */
  extras(decodeUlc) {
    this.#extras ??= this.#readExtras(decodeUlc);
    return this.#extras;
  }

  async #readExtras(decodeUlc) {
    const extras = {};
    for (const [kind, data] of this.attachments) {
      if (kind === KIND.ALPHA) extras.alpha = await decodeLossless(data, this.head, 1, "an alpha channel");
      else if (kind === KIND.ALPHA_ULC) extras.alpha = await decodeUlc(data);
      else if (!OF_SAMPLES.includes(kind)) Object.assign(extras, await metadataField(kind, data));
    }
    return extras;
  }
}
