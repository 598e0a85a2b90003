/** Models: a list of those at an address, their integers, and sessions of onnxruntime-web that run their graphs. */

import { N_SEGMENTS } from "./container.js";
import { ModelError, UnknownModelError } from "./errors.js";
import { Schedule } from "./schedule.js";
import { FrequencyTables } from "./symbols.js";

const TABLES = ["hyper_mean", "hyper_index", "hyper_gain", "estimate", "mean_gain", "scale_offset"];
const N_QUALITIES = 101;

/**
 * The models at an address, from its `models.json`: by fingerprint, `{name, config, files}`. `files` gives the address
 * of each file of the model; its name has a hash of its contents, so that it can be cached for ever.
 */
export class ModelStore {
  #list = null;
  #models = new Map();

  /** `base`: address of the folder. `openRuntime`: gives the runtime of runtime.js, when a model is needed. */
  constructor(base, openRuntime) {
    this.base = base;
    this.openRuntime = openRuntime;
  }

  /** Fetch the model of a file. Throws UnknownModelError, or ModelError if it cannot be fetched. */
  async load(fingerprint) {
    const entry = await this.find(fingerprint);
    if (!this.#models.has(fingerprint)) {
      const loading = this.openRuntime().then((runtime) => Model.load(fingerprint, entry, this.base, runtime));
      this.#models.set(fingerprint, loading);
      loading.catch(() => this.#models.delete(fingerprint));
    }
    return this.#models.get(fingerprint);
  }

  /** Find the model of a file in the list. Throws UnknownModelError, or ModelError if there is no list. */
  async find(fingerprint) {
    this.#list ??= fetchList(new URL("models.json", this.base));
    let list;
    try {
      list = await this.#list;
    } catch (error) {
      this.#list = null; // the next picture tries again
      throw error;
    }
    if (!Object.hasOwn(list, fingerprint)) {
      const known = Object.entries(list).map(([known, { name }]) => `${name} (${known})`);
      const have = known.length ? `here there is ${known.join(", ")}` : "here there is none";
      throw new UnknownModelError(`the file was made by a model with fingerprint ${fingerprint}; ${have}`);
    }
    return list[fingerprint];
  }
}

export class Model {
  #files;
  #sessions = new Map();
  #runtime;

  /** Fetch the files of a model. Throws ModelError. */
  static async load(fingerprint, { name: modelName, config, files }, base, runtime) {
    try {
      const entries = Object.entries(files).map(async ([name, file]) => [name, await fetchBytes(new URL(file, base))]);
      return new Model(fingerprint, config, Object.fromEntries(await Promise.all(entries)), runtime);
    } catch (error) {
      throw error instanceof ModelError ? error : new ModelError(`the model ${modelName} is damaged: ${error.message}`);
    }
  }

  /**
   * @param {string} fingerprint eight hexadecimal digits
   * @param {object} config as in `config.json` of a model directory
   * @param {Record<string, Uint8Array>} files their bytes, by name
   * @param {import("./runtime.js").Runtime} runtime
   */
  constructor(fingerprint, config, files, runtime) {
    this.fingerprint = fingerprint;
    this.#files = files;
    this.#runtime = runtime;
    this.latentChannels = config.latent_channels;
    this.hyperChannels = config.hyper_channels;
    this.hyperWidth = config.hyper_width;
    this.priorWidth = config.prior_width;
    this.decoderHalo = config.decoder_blocks_16 + Math.ceil(config.decoder_blocks_8 / 2);
    this.isShared = config.shared_prior === true;
    this.priorBlocks = [config.prior_blocks].flat();
    const coding = Object.keys(files).filter((name) => name.startsWith("coding-"));
    const integers = Object.assign({}, ...coding.map((name) => readSafetensors(files[name])));
    const get = (name) => {
      if (!(integers[name] instanceof Int32Array)) throw new ModelError(`the model lacks ${name}`);
      return integers[name];
    };
    this.rowTables = Object.fromEntries(TABLES.map((name) => [name, get(`table.${name}`)]));
    for (const [name, table] of Object.entries(this.rowTables)) {
      const nChannels = name.startsWith("hyper") ? this.hyperChannels : this.latentChannels;
      if (table.length !== N_QUALITIES * nChannels) {
        throw new ModelError(`the model's ${name} has another size than expected`);
      }
    }
    this.schedule = new Schedule(config.reveal, this.latentChannels);
    if (this.schedule.nPasses > N_SEGMENTS) {
      throw new ModelError("the model has more passes than a file has segments");
    }
    this.tables = new FrequencyTables(...["frequencies", "lengths", "minima"].map((part) => get(`tables.${part}`)));
  }

  /** Throw an UnknownModelError for a file of another model. */
  check(fingerprint) {
    if (fingerprint !== this.fingerprint) {
      throw new UnknownModelError(`the file was made by a model with fingerprint ${fingerprint}`);
    }
  }

  /** The row of a table for a quality from 0 to 100, int32. */
  tableRow(name, quality) {
    const table = this.rowTables[name];
    const width = table.length / N_QUALITIES;
    return table.subarray(quality * width, (quality + 1) * width);
  }

  /** The same model for one picture: its graphs do not run any more once `signal` is aborted. */
  until(signal) {
    const run = (graph, inputs) => {
      signal?.throwIfAborted();
      return this.run(graph, inputs);
    };
    return Object.assign(Object.create(this), { run });
  }

  /** Name of the prior's graph for a pass. */
  priorGraph(pass) {
    return this.isShared ? "prior" : `prior-${pass}`;
  }

  /** Positions around a tile that a pass reads. */
  priorHalo(pass) {
    return this.priorBlocks[this.isShared ? 0 : pass - 1];
  }

  /**
   * Run a graph. One runs at a time; others wait.
   * @param {Record<string, [ArrayBufferView, number[]]>} inputs data and shape of each
   * @returns {Promise<Record<string, Float32Array>>} its outputs
   */
  async run(graph, inputs) {
    if (!this.#sessions.has(graph)) this.#sessions.set(graph, this.#runtime.open(`${graph}.onnx`, this.#files));
    return this.#runtime.run(await this.#sessions.get(graph), inputs);
  }
}

/** Parse a safetensors file: typed arrays of its int32 tensors by name. Those of other types stay out. */
export function readSafetensors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const tensors = {};
  for (const [name, { dtype, data_offsets: offsets }] of Object.entries(header)) {
    if (dtype === "I32") tensors[name] = new Int32Array(bytes.slice(start + offsets[0], start + offsets[1]).buffer);
  }
  return tensors;
}

/** Fetch a file. Throws ModelError. */
async function fetchBytes(url) {
  let response, bytes;
  try {
    response = await fetch(url);
    bytes = new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    throw new ModelError(`${url}: ${error.message}`);
  }
  if (!response.ok) throw new ModelError(`${url}: HTTP ${response.status}`);
  return bytes;
}

/** Fetch a list of models. Throws ModelError, also for one of another form. */
async function fetchList(url) {
  const bytes = await fetchBytes(url);
  let list;
  try {
    list = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new ModelError(`${url} is no list of models: ${error.message}`);
  }
  if (!isObject(list) || !Object.values(list).every(isEntry)) throw new ModelError(`${url} is no list of models`);
  return list;
}

function isEntry(entry) {
  return isObject(entry) && typeof entry.name === "string" && isObject(entry.config) && isObject(entry.files);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
