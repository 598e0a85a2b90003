/** What the tests ask of the modules. Bytes go back and forth as base64. */

import { SymbolCheck } from "./checksums.js";
import { parseContainer } from "./container.js";
import { decode as decodeHere } from "./decoder.js";
import { LatentDecoder } from "./latents.js";
import { ModelStore } from "./model.js";
import { Runtime } from "./runtime.js";
import { FrequencyTables, SymbolDecoder, decodeFront } from "./symbols.js";
import { gridOf } from "./synthesis.js";
import { decode, settings } from "./ulcodec.js";

export const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

export function toBase64(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 2 ** 15) text += String.fromCharCode(...bytes.subarray(i, i + 2 ** 15));
  return btoa(text);
}

/** Decode files with `ulcodec.js`. @returns {Promise<object[]>} for each, facts and samples, or the error */
export async function decodeFiles(files, options = {}) {
  Object.assign(settings, options.settings);
  const results = [];
  for (const file of files) {
    try {
      const result = await decode(fromBase64(file), options);
      const { samples, icc, exif, xmp, cicp, ...facts } = result.picture;
      const metadata = Object.entries({ icc, exif, xmp, cicp }).filter(([, value]) => value);
      const encoded = Object.fromEntries(metadata.map(([name, value]) => [name, toBase64(value)]));
      results.push({ ...facts, device: result.device, samples: toBase64(samples), ...encoded });
    } catch (error) {
      results.push({ error: error.name, message: error.message });
    }
  }
  return results;
}

/** Decode a file's latent and hyper-latent, int32, in sixteenths of a bin. */
export async function latents(file) {
  const runtime = await Runtime.open("cpu", settings.runtime, 1);
  const container = parseContainer(fromBase64(file));
  const model = await new ModelStore(settings.models, async () => runtime).load(container.head.fingerprint);
  const decoder = new LatentDecoder(model, container.head.quality, gridOf(container.head));
  for (const segment of container.segments) await decoder.decode(segment);
  decoder.compareCheck(container.symbolCheck);
  return [toBase64(decoder.y16), toBase64(decoder.hyper16)];
}

/** Decode a file in this thread, and abort that in another task. @returns {Promise<string>} the name of the error */
export async function abortedDecode(file) {
  const runtime = await Runtime.open("cpu", settings.runtime, 1);
  const controller = new AbortController();
  const { signal } = controller;
  const onHead = () => setTimeout(() => controller.abort());
  const chunks = new Blob([fromBase64(file)]).stream();
  try {
    await decodeHere(chunks, new ModelStore(settings.models, async () => runtime), { onHead, signal });
    return "none";
  } catch (error) {
    return error.name;
  }
}

/** Decode groups of symbols. `payloads`: pairs of a payload and the table indices of its group. */
export function decodeSymbols([frequencies, lengths, minima], payloads, isFront) {
  const int32 = (text) => new Int32Array(fromBase64(text).buffer);
  const tables = new FrequencyTables(...[frequencies, lengths, minima].map(int32));
  return payloads.map(([payload, index]) => {
    try {
      if (isFront) return { symbols: toBase64(decodeFront(fromBase64(payload), fromBase64(index), tables)) };
      const decoder = new SymbolDecoder(fromBase64(payload));
      const symbols = decoder.decode(fromBase64(index), tables);
      decoder.finish();
      const check = new SymbolCheck();
      check.update(symbols);
      return { symbols: toBase64(symbols), check: check.value };
    } catch (error) {
      return { error: error.name };
    }
  });
}
