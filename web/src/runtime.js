/** onnxruntime-web: opens graphs, and runs one at a time. */

import { ModelError } from "./errors.js";

const MAX_THREADS = 8;

/** Builds of onnxruntime-web, by what they compute on. */
const BUILDS = { cpu: "ort.wasm.min.mjs", gpu: "ort.webgpu.min.mjs" };
const PROVIDERS = { cpu: "wasm", gpu: "webgpu" };
const LOG_ERRORS = 3;

/** Runs graphs on the CPU by WebAssembly, or on a GPU by WebGPU. */
export class Runtime {
  #ort;
  #device;
  #last = Promise.resolve();

  constructor(ort, device) {
    this.#ort = ort;
    this.#device = device;
  }

  /**
   * Fetch the build of onnxruntime-web for a device.
   * @param {"cpu" | "gpu"} device
   * @param {string} base address of the folder with onnxruntime-web's files
   * @param {number | null} nThreads threads of the CPU, which are above 1 only where the page is isolated; null for
   *   the number of cores, up to 8
   * @throws ModelError
   */
  static async open(device, base, nThreads) {
    let ort;
    try {
      ort = await import(new URL(BUILDS[device], base).href);
    } catch (error) {
      throw new ModelError(`onnxruntime-web cannot be loaded: ${firstLine(error)}`);
    }
    ort.env.wasm.wasmPaths = base;
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? (nThreads ?? defaultThreads()) : 1;
    return new Runtime(ort, device);
  }

  /** Open a graph of a model; `files`: bytes of the graphs and of the tensors that they refer to, by name. */
  async open(name, files) {
    if (!files[name]) throw new ModelError(`the model has no graph ${name}`);
    const externalData = Object.keys(files)
      .filter((file) => file.endsWith(".safetensors"))
      .map((path) => ({ path, data: files[path] }));
    const options = {
      externalData,
      executionProviders: [PROVIDERS[this.#device]],
      enableMemPattern: false, // it would keep the memory of a large tile for every size of tile
      logSeverityLevel: LOG_ERRORS,
    };
    try {
      return await this.#inTurn(() => this.#ort.InferenceSession.create(files[name], options));
    } catch (error) {
      throw new ModelError(`${name}: ${firstLine(error)}`);
    }
  }

  /** Run a session; see `Model.run`. */
  async run(session, inputs) {
    const ort = this.#ort;
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([name, [data, shape]]) => {
        return [name, new ort.Tensor(data instanceof BigInt64Array ? "int64" : "float32", data, shape)];
      }),
    );
    try {
      const results = await this.#inTurn(async () => {
        const outputs = await session.run(feeds);
        await otherTasks();
        return outputs;
      });
      return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.data]));
    } catch (error) {
      throw new ModelError(`the model cannot run: ${firstLine(error)}`);
    }
  }

  /** Call a function after those before it have ended: a session of WebAssembly must not be entered twice. */
  #inTurn(work) {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }
}

const { port1, port2 } = new MessageChannel();
const waiting = [];
port1.onmessage = () => waiting.shift()();

/**
 * Let this thread do its other tasks: messages, and bytes that have arrived. WebAssembly holds the thread, and the
 * promises of onnxruntime-web do not give it back.
 */
export function otherTasks() {
  return new Promise((resolve) => {
    waiting.push(resolve);
    port2.postMessage(null);
  });
}

function defaultThreads() {
  return Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS);
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0];
}

/** Whether the machine has a GPU that WebGPU can use, not one that the CPU imitates. */
export async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !adapter.info?.isFallbackAdapter;
}
