/**
 * ulcodec in a browser: decode `.ulc` pictures, and show them with `<ulc-image src="photo.ulc">`.
 *
 *     <script type="module" src="ulcodec.js"></script>
 *     <ulc-image src="photo.ulc" alt="a lighthouse"></ulc-image>
 *
 *     import { decode } from "./ulcodec.js";
 *     const { picture } = await decode("photo.ulc");
 */

import { ModelError, SourceError, fromMessage } from "./errors.js";

export * from "./errors.js";

const MAX_PIXELS = 2 ** 26;
const MAX_NAME = 200; // characters of a name in the text of an error; a data: URL may have millions

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

/** @type {ReturnType<typeof openWorker> | null} the worker that takes the next picture, with its open requests */
let current = null;
let nStarted = 0;

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
    const { device, nThreads } = settings;
    const addresses = { models: folder(models ?? settings.models), runtime: folder(settings.runtime) };
    const options = { ...addresses, device, nThreads, maxPixels, asPng, withPreviews: Boolean(onPreview) };
    const message = { type: "decode", id: nStarted++, source: sendable(source), ...options };
    current ??= openWorker();
    const { worker, settle, requests } = current;
    worker.postMessage(message);
    const abort = () => {
      worker.postMessage({ type: "abort", id: message.id });
      settle(message.id, () => reject(signal.reason));
    };
    signal?.addEventListener("abort", abort);
    const forget = () => signal?.removeEventListener("abort", abort);
    requests.set(message.id, { resolve, reject, onHead, onPreview, forget });
  });
}

/** An address of this page. Throws an error of `type` for what is none. */
function absolute(address, type) {
  try {
    return new URL(address, document.baseURI);
  } catch {
    throw new type(`it cannot be fetched: ${address} is no address`);
  }
}

/** The address of a folder, which may be given without the slash at its end. */
function folder(address) {
  const url = absolute(address, ModelError);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.href;
}

/** A source as it goes to the worker. */
function sendable(source) {
  if (source instanceof Uint8Array) return source.slice().buffer;
  if (source instanceof ArrayBuffer || source instanceof Blob) return source;
  return absolute(source, SourceError).href;
}

function openWorker() {
  const url = new URL("worker.js", import.meta.url);
  const worker = new Worker(url.origin === location.origin ? url : importing(url), { type: "module" });
  const requests = new Map();
  const opened = { worker, requests, settle };
  worker.addEventListener("message", ({ data: { id, type, ...fields } }) => {
    const request = requests.get(id);
    if (!request) return;
    if (type === "head") request.onHead?.(fields);
    else if (type === "preview") request.onPreview?.(fields.picture, fields.nSegments);
    else if (type === "done") settle(id, () => request.resolve(fields));
    else {
      if (fields.error.name === "ModelError") retire();
      settle(id, () => request.reject(fromMessage(fields.error)));
    }
  });
  worker.addEventListener("error", (event) => {
    retire();
    const error = new Error(`the worker of ulcodec stopped: ${event.message ?? url}`);
    for (const [id, { reject }] of requests) settle(id, () => reject(error));
    worker.terminate();
  });
  return opened;

  /** End a request. */
  function settle(id, how) {
    const request = requests.get(id);
    requests.delete(id);
    request.forget();
    how();
    if (current !== opened && !requests.size) worker.terminate();
  }

  /** Let another worker take the next picture, since the WebAssembly of this one may be out of memory. */
  function retire() {
    if (current === opened) current = null;
  }
}

let importer = null;

/** A worker of another origin, such as a content delivery network's, by way of one of this origin. */
function importing(url) {
  const type = "text/javascript";
  importer ??= URL.createObjectURL(new Blob([`import ${JSON.stringify(url.href)};`], { type }));
  return importer;
}

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { display: inline-block; max-width: 100%; }
  :host([hidden]) { display: none; }
  img { display: block; max-width: 100%; background: rgb(128 128 128 / 15%); }
  :host(:not([height])) img, :host([width]) img { height: auto; }
  img[hidden] { display: none; }
  p { margin: 0; padding: 1em; font: 0.9em system-ui, sans-serif; overflow-wrap: anywhere; }
  p { color: #b00020; background: #fdf2f3; }
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
  /** What `show` was given, in place of `src`. */ #shown = null;
  /** Sides of the picture, once they are known. */ #size = null;

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
    return this.#controller === null && this.#observer === null && this.#address !== null;
  }

  connectedCallback() {
    const isUnderWay = this.#controller !== null || this.#observer !== null || this.#address !== null;
    if (!isUnderWay) this.#start();
  }

  disconnectedCallback() {
    this.#stop();
    this.#release();
  }

  attributeChangedCallback(name, before, value) {
    if (name === "alt") {
      this.#setOnImage(name, value);
    } else if (name === "width" || name === "height") {
      this.#lay();
    } else if (before !== value) {
      if (name === "src") this.#shown = null;
      this.#stop();
      if (this.isConnected) this.#start();
      else this.#clear();
    }
  }

  /** Show the picture of a file that is at hand: a Blob, an ArrayBuffer or a Uint8Array. */
  show(source) {
    this.#stop();
    this.#shown = source ?? null;
    this.#show(source);
  }

  #start() {
    this.#stop();
    const source = this.#shown ?? this.src;
    if (source === "") {
      this.#clear();
      return;
    }
    if (this.#shown !== null || this.getAttribute("loading") !== "lazy") {
      this.#show(source);
      return;
    }
    this.#observer = new IntersectionObserver(
      (entries, observer) => {
        if (observer !== this.#observer || !entries.some((entry) => entry.isIntersecting)) return;
        this.#stop();
        this.#show(source);
      },
      { rootMargin: "50%" },
    );
    this.#observer.observe(this);
  }

  #stop() {
    this.#observer?.disconnect();
    this.#observer = null;
    this.#controller?.abort();
    this.#controller = null;
  }

  async #show(source) {
    const controller = new AbortController();
    const { signal } = controller;
    this.#controller = controller;
    this.#removeError();
    let drawing = Promise.resolve();
    const draw = (picture) => {
      drawing = drawing.catch(() => {}).then(() => this.#draw(picture, signal));
      return drawing;
    };
    const say = (event, detail) => this.dispatchEvent(new CustomEvent(event, { detail }));
    try {
      const result = await decode(source, {
        models: this.getAttribute("models") ?? undefined,
        maxPixels: Number(this.getAttribute("max-pixels")) || MAX_PIXELS,
        asPng: true,
        signal,
        onHead: (size) => this.#reserve(size),
        onPreview: (picture, nSegments) => {
          const shown = () => signal.aborted || say("preview", { nSegments });
          draw(picture).then(shown, () => {});
        },
      });
      await draw(result.picture);
      if (signal.aborted) return;
      this.#controller = null;
      say("load", result);
    } catch (error) {
      if (signal.aborted) return;
      this.#stop(); // also previews that are about to be drawn
      this.#fail(typeof source === "string" ? source : source?.name || "picture", error);
    }
  }

  /** Take the room of the picture before it is there, so that the page does not move. */
  #reserve(size) {
    this.#size = size;
    this.#lay();
  }

  /** Lay the picture out as `<img>` does: a side that is not given follows from the other one. */
  #lay() {
    const [width, height] = [this.getAttribute("width"), this.getAttribute("height")];
    const isFree = width === null && height === null;
    this.#setOnImage("width", isFree ? this.#size?.width : width);
    this.#setOnImage("height", isFree ? this.#size?.height : height);
    let ratio = this.#size ? `auto ${this.#size.width} / ${this.#size.height}` : "";
    if (Number(width) > 0 && Number(height) > 0) ratio = `${Number(width)} / ${Number(height)}`;
    this.#image.style.aspectRatio = ratio;
  }

  /** Set an attribute of the image, or remove it. */
  #setOnImage(name, value) {
    if (value === null || value === undefined) this.#image.removeAttribute(name);
    else this.#image.setAttribute(name, value);
  }

  /** Show a PNG once the browser has decoded it. */
  async #draw({ png }, signal) {
    if (signal.aborted) return;
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
    this.#reserve({ width: loaded.naturalWidth, height: loaded.naturalHeight }); // EXIF may turn the picture
    this.#release();
    this.#image.src = this.#address = address;
  }

  #fail(name, error) {
    this.#release();
    this.#image.hidden = true;
    const text = document.createElement("p");
    text.part = "error";
    text.role = "alert";
    text.textContent = `${name.length > MAX_NAME ? `${name.slice(0, MAX_NAME)}…` : name}: ${error.message}`;
    this.shadowRoot.append(text);
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  #removeError() {
    this.shadowRoot.querySelector("p")?.remove();
    this.#image.hidden = false;
  }

  /** Show nothing. */
  #clear() {
    this.#removeError();
    this.#release();
    this.#size = null;
    this.#lay();
  }

  #release() {
    if (this.#address === null) return;
    this.#image.removeAttribute("src");
    URL.revokeObjectURL(this.#address);
    this.#address = null;
  }
}

if (!customElements.get("ulc-image")) customElements.define("ulc-image", UlcImage); // else from another address
