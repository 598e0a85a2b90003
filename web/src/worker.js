/** The worker of ulcodec.js: fetches and decodes files, away from the page's thread. */

import { decode } from "./decoder.js";
import {
  ArithmeticMismatchError,
  CorruptDataError,
  FormatError,
  SourceError,
  UlcError,
  UnknownModelError,
  toMessage,
} from "./errors.js";
import { ModelStore } from "./model.js";
import { toPng } from "./png.js";
import { Runtime, hasGpu } from "./runtime.js";

const runtimes = new Map();
const stores = new Map();
const running = new Map();
let hasGpuFailed = false;

self.addEventListener("message", ({ data }) => {
  if (data.type === "abort") running.get(data.id)?.abort();
  else void start(data);
});

/** Decode one file, and post what comes of it. `source`: an address, a Blob, or an ArrayBuffer. */
async function start({ id, source, asPng, withPreviews, maxPixels, ...settings }) {
  const controller = new AbortController();
  const post = (type, fields = {}, transfer = []) => {
    if (!controller.signal.aborted) self.postMessage({ id, type, ...fields }, transfer);
  };
  running.set(id, controller);
  try {
    const begin = performance.now();
    const onHead = ({ width, height }) => post("head", { width, height });
    const onPreview = (picture, nSegments) => post("preview", { picture: delivered(picture, asPng), nSegments });
    const { signal } = controller;
    const isOnItsWay = typeof source === "string";
    const options = { maxPixels, onHead, onPreview: withPreviews && isOnItsWay ? onPreview : undefined, signal };
    const chunks = chunksOf(source, signal);
    const { picture, file, device } = await decodeOnBest(chunks, settings, options);
    const result = delivered(picture, asPng);
    const facts = { nBytes: file.nBytes, quality: file.head.quality, isLossless: file.isLossless, device };
    const milliseconds = performance.now() - begin;
    post("done", { ...facts, picture: result, milliseconds }, asPng ? [] : [result.samples.buffer]);
  } catch (error) {
    const isTooLarge = error instanceof RangeError; // of an allocation
    post("error", { error: toMessage(isTooLarge ? new UlcError("not enough memory for it") : error) });
  } finally {
    running.delete(id);
  }
}

/** Decode on the GPU, if there is one and it is wanted, or else on the CPU. Where the GPU fails, the CPU takes over. */
async function decodeOnBest(chunks, settings, options) {
  if (!(await wantsGpu(settings.device))) return decodeOn("cpu", chunks, settings, options);
  const arrived = [];
  try {
    return await decodeOn("gpu", recorded(chunks, arrived), settings, options);
  } catch (error) {
    const { maxPixels, signal } = options;
    if (signal.aborted || !mayBeOfTheGpu(error)) throw error;
    const result = await decodeOn("cpu", arrived, settings, { maxPixels, signal });
    console.warn(`ulcodec: the GPU failed, the CPU takes over: ${error.message}`);
    hasGpuFailed = true;
    return result;
  }
}

/** Whether an error may come from the GPU. Others do not, and would be the same on the CPU. */
function mayBeOfTheGpu(error) {
  if (error instanceof CorruptDataError || error instanceof ArithmeticMismatchError) return true;
  return ![FormatError, SourceError, UnknownModelError].some((type) => error instanceof type);
}

async function wantsGpu(device) {
  if (device === "cpu" || hasGpuFailed) return false;
  return device === "gpu" || hasGpu();
}

async function decodeOn(device, chunks, settings, options) {
  return { ...(await decode(chunks, storeOf(device, settings), options)), device };
}

async function* recorded(chunks, arrived) {
  for await (const chunk of chunks) {
    arrived.push(chunk);
    yield chunk;
  }
}

/** The models at an address, on a device. */
function storeOf(device, { models, runtime, nThreads }) {
  const key = `${device} ${models}`;
  if (!stores.has(key)) stores.set(key, new ModelStore(models, () => runtimeOf(device, runtime, nThreads)));
  return stores.get(key);
}

function runtimeOf(device, address, nThreads) {
  if (!runtimes.has(device)) {
    const opening = Runtime.open(device, address, nThreads);
    runtimes.set(device, opening);
    opening.catch(() => runtimes.delete(device)); // the next picture tries again
  }
  return runtimes.get(device);
}

/** A picture as it goes to the page: with its samples, or as the Blob of a PNG. */
function delivered(picture, asPng) {
  if (!asPng) return picture;
  const { width, height, bitDepth, nChannels } = picture;
  return { width, height, bitDepth, nChannels, png: toPng(picture) };
}

async function* chunksOf(source, signal) {
  if (source instanceof ArrayBuffer) {
    yield new Uint8Array(source);
    return;
  }
  const reader = (source instanceof Blob ? source.stream() : await bodyOf(source, signal)).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error instanceof UlcError ? error : new SourceError(`the download stopped: ${error.message}`);
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function bodyOf(url, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    throw new SourceError(`it cannot be fetched: ${error.message}`);
  }
  if (!response.ok) throw new SourceError(`it cannot be fetched: HTTP ${response.status}`);
  return response.body ?? new Blob().stream(); // HTTP 204 has no body
}
