/**
 * ulcodec in a browser: decode `.ulc` pictures, and show them with `<ulc-image src="photo.ulc">`.
 *
 *     <script type="module" src="ulcodec.js"></script>
 *     <ulc-image src="photo.ulc" alt="a lighthouse"></ulc-image>
 *
 *     import { decode } from "./ulcodec.js";
 *     const { picture } = await decode("photo.ulc");
 */

import { fromMessage } from "./errors.js";

export * from "./errors.js";

const MAX_PIXELS = 2 ** 26;

/**
 * Settings of the page, to be changed before the first picture is decoded.
 * `models`: address of the folder with `models.json`. `runtime`: address of the folder with onnxruntime-web's files.
 * `device`: "gpu", "cpu", or "auto": the GPU where WebGPU has one, and the CPU where it has none or fails. `nThreads`:
 * threads of the CPU, which are above 1 only on a page that is cross-origin isolated; null for its cores, up to 8.
 */
export const settings = {
  models: new URL("models/", import.meta.url).href,
  runtime: new URL("onnxruntime/", import.meta.url).href,
  device: "auto",
  nThreads: null,
};

let worker = null;
let nStarted = 0;
const pending = new Map();

/**
 * Decode a file in the worker.
 * @param {string | URL | Blob | ArrayBuffer | Uint8Array} source an address, or the bytes
 * @param {object} [options]
 * @param {string} [options.models] address of the folder with `models.json`
 * @param {number} [options.maxPixels] largest picture to decode, 2^26 unless stated
 * @param {boolean} [options.asPng] give the picture as `png`, the Blob of a PNG file, in place of `samples`
 * @param {(size: {width: number, height: number}) => void} [options.onHead] called when the size is known
 * @param {(picture: object, nSegments: number) => void} [options.onPreview] called with the picture so far, while
 *   the file of an address is on its way
 * @param {AbortSignal} [options.signal]
 * @returns {Promise<{picture: import("./decoder.js").Picture, nBytes: number, quality: number, isLossless: boolean,
 *   milliseconds: number, device: string}>} `milliseconds`: from the request of the file to its picture
 * @throws FormatError for a damaged file, UnknownModelError, ModelError, SourceError, or the reason of `signal`
 */
export function decode(source, { models, maxPixels = MAX_PIXELS, asPng = false, onHead, onPreview, signal } = {}) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    worker ??= openWorker();
    const id = nStarted++;
    pending.set(id, { resolve, reject, onHead, onPreview });
    signal?.addEventListener("abort", () => {
      if (!pending.delete(id)) return;
      worker.postMessage({ type: "abort", id });
      reject(signal.reason);
    });
    const addresses = { models: absolute(models ?? settings.models), runtime: absolute(settings.runtime) };
    const options = { ...settings, ...addresses, maxPixels, asPng, withPreviews: Boolean(onPreview) };
    worker.postMessage({ type: "decode", id, source: sendable(source), ...options });
  });
}

/** An address of this page. */
function absolute(address) {
  return new URL(address, document.baseURI).href;
}

/** A source as it goes to the worker. */
function sendable(source) {
  if (source instanceof Uint8Array) return source.slice().buffer;
  if (source instanceof ArrayBuffer || source instanceof Blob) return source;
  return absolute(source);
}

function openWorker() {
  const url = new URL("worker.js", import.meta.url);
  const opened = new Worker(url.origin === location.origin ? url : importing(url), { type: "module" });
  opened.addEventListener("message", ({ data: { id, type, ...fields } }) => {
    const request = pending.get(id);
    if (!request) return;
    if (type === "head") request.onHead?.(fields);
    else if (type === "preview") request.onPreview?.(fields.picture, fields.nSegments);
    else {
      pending.delete(id);
      if (type === "done") request.resolve(fields);
      else request.reject(fromMessage(fields.error));
      if (type === "error" && fields.error.name === "ModelError" && !pending.size) close();
    }
  });
  opened.addEventListener("error", (event) => {
    const error = new Error(`the worker of ulcodec stopped: ${event.message ?? url}`);
    for (const { reject } of pending.values()) reject(error);
    pending.clear();
    close();
  });
  return opened;

  /** End the worker, whose WebAssembly may be out of memory; the next picture opens another one. */
  function close() {
    opened.terminate();
    worker = null;
  }
}

/** A worker of another origin, such as a content delivery network's, by way of one of this origin. */
function importing(url) {
  return URL.createObjectURL(new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" }));
}

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { display: inline-block; max-width: 100%; }
  :host([hidden]) { display: none; }
  img { display: block; max-width: 100%; height: auto; background: rgb(128 128 128 / 15%); }
  img[hidden] { display: none; }
  p { margin: 0; padding: 1em; font: 0.9em system-ui, sans-serif; color: #b00020; background: #fdf2f3; }
`);

/**
 * `<ulc-image src alt width height loading models max-pixels>`: a picture as `<img>`, from a `.ulc` file.
 *
 * `loading="lazy"` waits until it is about to be seen. Events: `preview` (`detail`: `{nSegments}`) for each picture of
 * a part of the file, `load` (`detail`: what `decode` gives), `error` (`detail`: the error, whose text is in its
 * place). Parts for style sheets: `image`, `error`.
 */
export class UlcImage extends HTMLElement {
  static observedAttributes = ["src", "alt", "width", "height", "models", "max-pixels"];

  #image = document.createElement("img");
  #controller = null;
  #observer = null;
  #address = null;

  constructor() {
    super();
    this.#image.part = "image";
    this.attachShadow({ mode: "open" }).append(this.#image);
    this.shadowRoot.adoptedStyleSheets = [STYLE];
  }

  /** Address of the file. */
  get src() {
    return this.getAttribute("src") ?? "";
  }

  set src(value) {
    this.setAttribute("src", value);
  }

  /** Whether the whole picture is shown. */
  get complete() {
    return this.#controller === null && this.#address !== null;
  }

  connectedCallback() {
    this.#start();
  }

  disconnectedCallback() {
    this.#stop();
    this.#release();
  }

  attributeChangedCallback(name, before, value) {
    if (["alt", "width", "height"].includes(name)) {
      if (value === null) this.#image.removeAttribute(name);
      else this.#image.setAttribute(name, value);
    } else if (before !== value && this.isConnected) this.#start();
  }

  /** Show the picture of a file that is at hand: a Blob, an ArrayBuffer or a Uint8Array. */
  show(source) {
    this.#stop();
    this.#show(source);
  }

  #start() {
    this.#stop();
    if (!this.src) return;
    if (this.getAttribute("loading") !== "lazy") {
      this.#show(this.src);
      return;
    }
    this.#observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        this.#observer.disconnect();
        this.#show(this.src);
      },
      { rootMargin: "50%" },
    );
    this.#observer.observe(this);
  }

  #stop() {
    this.#observer?.disconnect();
    this.#controller?.abort();
    this.#controller = null;
  }

  async #show(source) {
    const controller = new AbortController();
    const { signal } = controller;
    this.#controller = controller;
    this.shadowRoot.querySelector("p")?.remove();
    this.#image.hidden = false;
    let drawing = Promise.resolve();
    const draw = (picture, event, detail) => {
      drawing = drawing.then(() => this.#draw(picture, signal)).then(() => {
        if (!signal.aborted) this.dispatchEvent(new CustomEvent(event, { detail }));
      });
      return drawing;
    };
    const maxPixels = Number(this.getAttribute("max-pixels")) || MAX_PIXELS;
    try {
      const result = await decode(source, {
        models: this.getAttribute("models") ?? undefined,
        maxPixels,
        asPng: true,
        signal,
        onHead: (size) => this.#reserve(size),
        onPreview: (picture, nSegments) => draw(picture, "preview", { nSegments }).catch(() => {}),
      });
      await draw(result.picture, "load", result);
    } catch (error) {
      if (!signal.aborted) this.#fail(typeof source === "string" ? source : source.name || "picture", error);
    } finally {
      if (this.#controller === controller) this.#controller = null;
    }
  }

  /** Take the room of the picture before it is there, so that the page does not move. */
  #reserve({ width, height }) {
    if (!this.hasAttribute("width")) this.#image.width = width;
    if (!this.hasAttribute("height")) this.#image.height = height;
  }

  /** Show a PNG once the browser has decoded it. */
  async #draw({ png }, signal) {
    const address = URL.createObjectURL(png);
    const loaded = new Image();
    loaded.src = address;
    try {
      await loaded.decode();
    } catch (error) {
      URL.revokeObjectURL(address);
      throw error;
    }
    if (signal.aborted) {
      URL.revokeObjectURL(address);
      return;
    }
    this.#release();
    this.#image.src = this.#address = address;
  }

  #fail(name, error) {
    this.#release();
    this.#image.hidden = true;
    const text = document.createElement("p");
    text.part = "error";
    text.role = "alert";
    text.textContent = `${name}: ${error.message}`;
    this.shadowRoot.append(text);
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  #release() {
    if (this.#address === null) return;
    this.#image.removeAttribute("src");
    URL.revokeObjectURL(this.#address);
    this.#address = null;
  }
}

customElements.define("ulc-image", UlcImage);
