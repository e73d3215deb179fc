// A client of convq for Node 20 or later, in one file: copy it, and `npm install redis` (version 4.7, 5 or 6).
//
//   const convq = await Convq.connect("redis://127.0.0.1:6379", { model: "lenet" });
//   const result = await convq.classify(await readFile("seven.png"), { timeoutMs: 5_000 });
//   await convq.close();
//
// Two connections, however many jobs are on their way: one sends, and one waits at an inbox (BLPOP and its like hold a
// connection up). What travels is described in PROTOCOL.md.

import { randomBytes } from "node:crypto";
import { endianness } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient, ErrorReply } from "redis";

/**
 * @typedef {"high" | "normal" | "low"} Priority
 * @typedef {{ label: string, index: number, score: number }} Prediction
 * @typedef {{
 *   label: string, index: number, score: number, box: [number, number, number, number], corners?: [number, number][],
 *   keypoints?: number[][], mask?: { size: [number, number], counts: string }, polygons?: number[][],
 *   mask_png?: { x: number, y: number, data: string }
 * }} Detection coordinates are pixels of the upright picture
 * @typedef {{
 *   name: string, data: string, dtype?: string, shape?: number[], format?: "png", low?: number, high?: number, box?: number[]
 * }} Output `data` is base64: little-endian values in C order, or a PNG file; `low` and `high` are what the levels of depth mean
 * @typedef {{
 *   format: "png", width: number, height: number, data: string, box?: number[],
 *   classes: { label: string, index: number, share: number }[]
 * }} Segments level = index of the class
 * @typedef {{ size: number, dtype: "float32", normalized: boolean, data?: string, values?: number[] }} Embedding
 * @typedef {{
 *   v: number, id: string, entry: string, model: string, version?: number, status: string, attempt: number,
 *   predictions?: Prediction[], image?: { width: number, height: number }, detections?: Detection[], truncated?: true,
 *   heads?: Record<string, Prediction[]>, segments?: Segments, embedding?: Embedding, text?: string, text_score?: number,
 *   keypoints?: number[][], values?: Record<string, number>, outputs?: Output[], error?: { code: string, message: string },
 *   timing_ms: Record<string, number>
 * }} Result the protocol's document
 * @typedef {{ tensor: Float32Array | Uint8Array, shape: number[] }} Tensor without the batch axis, as the model's input has it
 * @typedef {Uint8Array | ArrayBuffer | Tensor} Input the bytes of an image file, or a tensor
 * @typedef {object} JobOptions
 * @property {string} [id] your own name of the job: for 10 minutes, the same id is the same job. A-Z a-z 0-9 . _ : -, at most 64
 * @property {Priority} [priority] "normal" if not given
 * @property {number} [ttlMs] not computed any more so many milliseconds after it was submitted
 * @property {number} [topK] how many predictions; 5 if not given
 * @property {string[]} [outputs] names of outputs or feature maps wanted besides
 * @property {number} [version] pins a version of the model
 * @property {number} [minScore] from 0 to 1: detections and predictions below it are left out
 * @property {number} [iou] from 0 to 1: boxes of one class that overlap by more are one object
 * @property {number} [maxDetections] 1 to 1000, best first
 * @property {string[]} [labels] only these are detections
 * @property {string[]} [format] of masks "rle" (if not given), "polygon", "png" or "none"; of an embedding "base64" or "list"; of
 *   maps "picture" or "network"
 * @property {string} [traceparent] W3C trace context
 * @property {number} [timeoutMs] the longest wait of this call, repetitions included
 * @property {AbortSignal} [signal] gives up at once
 * @typedef {{
 *   id: string, names: string[], stream: string, fields: (string | Buffer)[], entry: string | null, withdraw: boolean,
 *   settled: boolean, answer: Promise<Result>, resolve: (result: Result) => void, reject: (error: Error) => void
 * }} Job `names` are the ids that it travelled under, the newest last
 */

const STREAMS = { high: ":high", normal: "", low: ":low" };
const WAIT_OPTIONS = ["timeoutMs", "signal"];
const ASKED = ["minScore", "iou", "maxDetections", "labels", "format"];
const OPTIONS = ["id", "priority", "ttlMs", "topK", "outputs", "version", ...ASKED, "traceparent", "timeoutMs", "signal"];
const CLIENT_OPTIONS = ["model", "name", "timeoutMs", "tls"];
const PASSES = new Set(
  "QUEUEFULL HELD OOM LOADING BUSY MISCONF MASTERDOWN CLUSTERDOWN TRYAGAIN NOREPLICAS READONLY UNBLOCKED".split(" "),
);
const PASSES_TOO = /max number of clients|exhausted the last possible ID/;
const TIMEOUT_MS = 10_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;
const POP_S = 3; // well below IDLE_MS: a connection that is silent for longer is dead
const IDLE_MS = 10_000;
const POP_JOBS = 500;
const KEPT_RESULTS = 1_000; // that nobody has asked for yet; the oldest go first
const CANCELLED_S = 3_600;

/** What went wrong, for programs in `code`:
 * an error code of the protocol ("bad_image"), a status ("expired", "cancelled", "poisoned"), the word that an error of the
 * server or of its door begins with ("QUEUEFULL", "WRONGPASS", "NOPERM"), or "timeout", "connection", "aborted", "closed".
 */
export class ConvqError extends Error {
  name = "ConvqError";

  /**
   * @param {string} code
   * @param {string} message
   * @param {{ retry?: boolean, retryAfterMs?: number, result?: Result }} [more] `retry`: the same call may succeed later
   */
  constructor(code, message, { retry = false, retryAfterMs, result } = {}) {
    super(message);
    this.code = code;
    this.retry = retry;
    this.retryAfterMs = retryAfterMs;
    this.result = result;
  }
}

export class Convq {
  #model;
  #prefix;
  #name;
  #named; // results of jobs that are not known here may be those of an earlier process
  #inbox;
  #timeoutMs;
  #sender;
  #reader;
  #reading = Promise.resolve();
  #closed = false;
  #made = 0;
  #scriptless = false; // whether the server had no functions when it was last asked
  /** @type {Map<string, Job>} by each of its names, until its result has been handed over */
  #jobs = new Map();
  /** @type {Set<Job>} answered, and not asked for yet */
  #kept = new Set();

  /**
   * See `connect`.
   * @param {string} url
   * @param {{ model: string, name?: string, timeoutMs?: number, tls?: import("node:tls").ConnectionOptions }} options
   */
  constructor(url, options) {
    const { model, name, tls, timeoutMs = TIMEOUT_MS } = known("option", CLIENT_OPTIONS, options);
    if (!/^[a-z0-9][a-z0-9_-]{0,63}$/.test(model ?? "")) throw new TypeError("model is needed, like { model: \"lenet\" }");
    if (!/^[A-Za-z0-9._:-]{1,40}$/.test(name ?? "-")) throw new TypeError("name is 1 to 40 characters of A-Z a-z 0-9 . _ : -");
    this.#model = model;
    this.#prefix = `convq:{${model}}:`;
    this.#named = name !== undefined;
    this.#name = name ?? `node-${randomBytes(8).toString("hex")}`;
    this.#inbox = `${this.#prefix}inbox:${this.#name}`;
    this.#timeoutMs = count("timeoutMs", timeoutMs);
    this.#sender = new Link(url, tls);
    this.#reader = new Link(url, tls);
  }

  /**
   * Connect to the server. Rejects with ConvqError where it is not there within 5 s, or refuses.
   * @param {string} url redis://[user[:password]@]host[:port][/db], or rediss:// for TLS; special characters as %XX
   * @param {{ model: string, name?: string, timeoutMs?: number, tls?: import("node:tls").ConnectionOptions }} options `name`: of the inbox; random if not given. With a name of its own, which no other process has, a process that
   *   starts again finds the results of jobs that it submitted before. `tls`: { ca, cert, key } of a rediss:// server
   */
  static async connect(url, options) {
    const convq = new Convq(url, options);
    try {
      await Promise.all([convq.#sender.open(), convq.#reader.open()]);
    } catch (error) {
      convq.#drop();
      throw error;
    }
    convq.#reading = convq.#read();
    return convq;
  }

  /**
   * Submit one job and wait for its result. Rejects with ConvqError where it does not end as ok; on a timeout or an abort the
   * job is withdrawn.
   * @param {Input} input
   * @param {JobOptions} [options]
   * @returns {Promise<Result>}
   */
  async classify(input, options = {}) {
    const untilMs = this.#until(known("option", OPTIONS, options));
    const job = await this.#submit(input, options, untilMs, true);
    const result = await this.#wait(job, untilMs, options.signal);
    if (result.status === "ok") return result;
    const code = result.status === "error" ? (result.error?.code ?? "internal") : result.status;
    throw new ConvqError(code, `job ${job.id}: ${result.error?.message ?? result.status}`, { result });
  }

  /**
   * Submit one job and return its id as soon as it is in the queue; `result` waits for its result.
   * @param {Input} input
   * @param {JobOptions} [options]
   */
  async submit(input, options = {}) {
    return (await this.#submit(input, options, this.#until(known("option", OPTIONS, options)), false)).id;
  }

  /**
   * The result of a job that this client submitted, whatever its status, once.
   * @param {string} id
   * @param {{ timeoutMs?: number, signal?: AbortSignal }} [options]
   */
  async result(id, options = {}) {
    text("an id", id);
    known("option", WAIT_OPTIONS, options);
    const job = this.#jobs.get(id) ?? this.#register(id, "", []);
    return this.#wait(job, this.#until(options), options.signal);
  }

  /** Withdraw jobs: those that have not run end as `cancelled`. */
  async cancel(/** @type {string[]} */ ...ids) {
    for (const id of ids) text("an id", id);
    if (ids.length === 0) return;
    const names = ids.flatMap((id) => this.#jobs.get(id)?.names ?? [id]);
    const key = `${this.#prefix}cancelled`;
    await Promise.all([
      this.#sender.send("SADD", key, ...names),
      this.#sender.send("EXPIRE", key, String(CANCELLED_S)),
    ]);
  }

  /** The models that live services serve: name -> description. */
  async served() {
    const flat = /** @type {string[]} */ (await this.#sender.send("HGETALL", "convq:models"));
    return new Map(flat.flatMap((name, i) => (i % 2 ? [] : [[name, JSON.parse(flat[i + 1])]])));
  }

  /** Withdraw the jobs that `classify` waits for, reject all waits with the code "closed", and let the process end. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    const open = [...new Set(this.#jobs.values())].filter((job) => !job.settled);
    await this.#withdraw(open.filter((job) => job.withdraw));
    for (const job of open) job.reject(new ConvqError("closed", "the client was closed while this call waited"));
    this.#drop();
    await this.#reading;
  }

  #drop() {
    this.#sender.close();
    this.#reader.close();
  }

  #until(/** @type {{ timeoutMs?: number, signal?: AbortSignal }} */ options) {
    if (options.signal !== undefined && !(options.signal instanceof AbortSignal)) {
      throw new TypeError("signal is an AbortSignal, like that of an AbortController");
    }
    if (this.#closed) throw new ConvqError("closed", "the client is closed");
    return performance.now() + count("timeoutMs", options.timeoutMs ?? this.#timeoutMs);
  }

  // -- sending ----------------------------------------------------------------------------------------------------------

  /** @returns {Promise<Job>} in the queue; the one that is known already under this id */
  async #submit(/** @type {Input} */ input, /** @type {JobOptions} */ options, /** @type {number} */ untilMs, /** @type {boolean} */ withdraw) {
    const fields = fieldsOf(input, options);
    const known = options.id === undefined ? undefined : this.#jobs.get(options.id);
    if (known) return known;
    const stream = `${this.#prefix}jobs${STREAMS[options.priority ?? "normal"]}`;
    const job = this.#register(options.id ?? this.#newName(), stream, fields, withdraw);
    try {
      await this.#push(job, untilMs, options.signal);
    } catch (error) {
      this.#forget(job);
      if (["timeout", "aborted", "connection"].includes(error.code)) void this.#withdraw([job]); // it may be in the queue all the same
      throw error;
    }
    return job;
  }

  #newName() {
    this.#made += 1;
    return `${this.#name}-${randomBytes(4).toString("hex")}-${this.#made}`;
  }

  /** @returns {Job} known here before it is sent: its result may be faster than the reply to the submission */
  #register(/** @type {string} */ id, /** @type {string} */ stream, /** @type {(string | Buffer)[]} */ fields, withdraw = false) {
    const { promise, resolve, reject } = deferred();
    const job = { id, names: [id], stream, fields, entry: null, withdraw, settled: false, answer: promise, resolve, reject };
    this.#jobs.set(id, job);
    return job;
  }

  #forget(/** @type {Job} */ job) {
    for (const name of job.names) this.#jobs.delete(name);
    this.#kept.delete(job);
  }

  /** Send it until it is in the queue: an id makes repetitions one job. */
  async #push(/** @type {Job} */ job, /** @type {number} */ untilMs, /** @type {AbortSignal | undefined} */ signal = undefined) {
    for (let failures = 0; ; failures += 1) {
      if (this.#closed) throw new ConvqError("closed", "the client was closed before the job was submitted");
      if (signal?.aborted) throw aborted();
      try {
        job.entry = await within(this.#send(job), untilMs - performance.now(), signal);
        return;
      } catch (error) {
        if (job.settled) return; // only the reply to the submission was lost
        const pauseMs = pauseAfter(failures, error.retryAfterMs);
        if (!error.retry || performance.now() + pauseMs > untilMs) throw error;
        await sleep(pauseMs, undefined, { signal }).catch(() => {});
      }
    }
  }

  /** The door, where a service has put its functions on the server; else plain XADD. */
  async #send(/** @type {Job} */ job) {
    const fields = [...job.fields, "id", job.names.at(-1), "reply_to", this.#inbox];
    if (!this.#scriptless) {
      try {
        return await this.#sender.send("FCALL", "convq_submit", "1", job.stream, ...fields);
      } catch (error) {
        if (!/Function not found/.test(error.message)) throw error;
        this.#scriptless = true;
        setTimeout(() => (this.#scriptless = false), LONGEST_PAUSE_MS).unref(); // a service may come
      }
    }
    return this.#sender.send("XADD", job.stream, "*", ...fields);
  }

  async #withdraw(/** @type {Job[]} */ jobs) {
    const ids = jobs.flatMap((job) => job.names);
    await within(this.cancel(...ids), 1_000).catch(() => {}); // not withdrawn: they are computed for nobody, no more
  }

  // -- waiting ----------------------------------------------------------------------------------------------------------

  async #wait(/** @type {Job} */ job, /** @type {number} */ untilMs, /** @type {AbortSignal | undefined} */ signal) {
    try {
      const result = await within(job.answer, untilMs - performance.now(), signal);
      this.#forget(job);
      return { ...result, id: job.id };
    } catch (error) {
      if (job.withdraw || job.stream === "") this.#forget(job); // else its result may be asked for again
      if (job.withdraw && ["timeout", "aborted"].includes(error.code)) void this.#withdraw([job]);
      throw error.code === "timeout" ? await this.#explained(job) : error;
    }
  }

  /** Whether it is worth waiting longer: does a worker serve that model at all? */
  async #explained(/** @type {Job} */ job) {
    let why = "Redis does not answer";
    try {
      const served = [...(await within(this.served(), 1_000)).keys()].sort();
      const serves = served.includes(this.#model);
      why = serves ? `a worker serves '${this.#model}'` : `no worker serves '${this.#model}'; served: ${served.join(", ") || "nothing"}`;
    } catch (error) {
      if (error.code !== "timeout") why = error.message;
    }
    return new ConvqError("timeout", `no result for ${job.id} in time; ${why}`, { retry: true });
  }

  /** Takes results out of the inbox until the client is closed. */
  async #read() {
    let doubts = false;
    for (let failures = 0; !this.#closed; ) {
      try {
        if (doubts) await this.#recover();
        doubts = false;
        const args = ["BLMPOP", String(POP_S), "1", this.#inbox, "LEFT", "COUNT", String(POP_JOBS)];
        const reply = /** @type {[string, string[]] | null} */ (await this.#reader.send(...args));
        failures = 0;
        for (const document of reply?.[1] ?? []) this.#take(document);
      } catch (error) {
        if (this.#closed) return;
        if (!error.retry) for (const job of new Set(this.#jobs.values())) job.reject(error);
        doubts = true;
        await sleep(pauseAfter(failures));
        failures += 1;
      }
    }
  }

  #take(/** @type {string} */ document) {
    /** @type {Result} */
    let result;
    try {
      result = JSON.parse(document);
    } catch {
      return; // not from convq
    }
    const job = this.#jobs.get(result.id) ?? (this.#named ? this.#register(result.id, "", []) : undefined);
    if (job === undefined || job.settled) return; // nobody waits any more, or a second answer of a server that forgot the first
    job.settled = true;
    job.resolve(result);
    this.#kept.add(job);
    if (this.#kept.size > KEPT_RESULTS) this.#forget(this.#kept.values().next().value);
  }

  /**
   * After a break: what the server has lost, or has sent into the broken connection, is submitted again. Where a job is
   * neither in the queue now nor in the inbox a moment later, no result will come.
   */
  async #recover() {
    const asked = [...new Set(this.#jobs.values())].filter((job) => job.entry !== null && !job.settled);
    const there = await Promise.all(asked.map((job) => this.#isQueued(job)));
    for (let documents; (documents = await this.#reader.send("LPOP", this.#inbox, String(POP_JOBS))) !== null; ) {
      for (const document of documents) this.#take(document);
    }
    for (const [i, job] of asked.entries()) if (!there[i] && !job.settled) this.#again(job).catch(job.reject);
  }

  async #isQueued(/** @type {Job} */ job) {
    try {
      return ["waiting", "running"].includes(await this.#reader.send("FCALL", "convq_status", "1", job.stream, job.entry));
    } catch (error) {
      if (!/Function not found/.test(error.message)) throw error;
      return (await this.#reader.send("XRANGE", job.stream, job.entry, job.entry, "COUNT", "1")).length > 0;
    }
  }

  /** Under its own id first; where that is said to be the old job, or to be answered, under another one. */
  async #again(/** @type {Job} */ job) {
    const lost = job.entry;
    const untilMs = performance.now() + this.#timeoutMs;
    try {
      await this.#push(job, untilMs);
      if (job.entry !== lost) return;
    } catch (error) {
      if (error.code !== "ANSWERED") throw error;
    }
    if (job.settled) return;
    job.names.push(this.#newName());
    this.#jobs.set(job.names.at(-1), job);
    await this.#push(job, untilMs);
  }
}

/** One connection, opened when it is needed, and anew after it broke. Nothing is ever sent twice by itself. */
class Link {
  /** @type {ReturnType<typeof createClient> | undefined} */
  #client;
  /** @type {Promise<ReturnType<typeof createClient>> | undefined} */
  #opening;
  #options;
  #closed = false;

  constructor(/** @type {string} */ url, /** @type {import("node:tls").ConnectionOptions} */ tls) {
    if (!URL.canParse(url) || !/^rediss?:$/.test(new URL(url).protocol)) {
      throw new TypeError("the URL is redis://[user[:password]@]host[:port][/db] or rediss://…, special characters as %XX");
    }
    const socket = { reconnectStrategy: /** @type {false} */ (false), connectTimeout: 5_000, socketTimeout: IDLE_MS };
    if (new URL(url).protocol === "rediss:") Object.assign(socket, { tls: true, ...tls });
    this.#options = { url, socket, pingInterval: 1_000 * POP_S, disableClientInfo: true, RESP: /** @type {2} */ (2) };
  }

  async open() {
    if (this.#closed) throw new ConvqError("closed", "the client is closed");
    if (this.#client?.isReady) return this.#client;
    this.#opening ??= this.#open().finally(() => (this.#opening = undefined));
    return this.#opening;
  }

  async #open() {
    this.#drop();
    const client = createClient(this.#options);
    client.on("error", () => {}); // the commands that it concerns are rejected with it too
    try {
      await client.connect();
    } catch (error) {
      throw understood(error);
    }
    this.#client = client;
    if (this.#closed) this.#drop();
    return client;
  }

  /** @returns {Promise<any>} the reply; rejects with ConvqError */
  async send(/** @type {(string | Buffer)[]} */ ...args) {
    const client = await this.open();
    try {
      return await client.sendCommand(args);
    } catch (error) {
      const known = understood(error);
      if (known.code === "READONLY") this.#drop(); // perhaps the address leads to the new master by now
      throw known;
    }
  }

  close() {
    this.#closed = true;
    this.#drop();
  }

  #drop() {
    if (this.#client?.isOpen) {
      // Version 4 calls it so, and has rejected what waits before its promise settles.
      if (this.#client.destroy === undefined) void Promise.resolve(this.#client.disconnect()).catch(() => {});
      else this.#client.destroy();
    }
    this.#client = undefined;
  }
}

// -- small things ---------------------------------------------------------------------------------------------------------

/** @returns {ConvqError} what an error of the server or of the connection means */
function understood(error) {
  const text = String(error.message || error.errors?.[0]?.message || error.code || error);
  if (!(error instanceof ErrorReply)) {
    return new ConvqError("connection", `no connection to Redis: ${text}`, { retry: !(error instanceof TypeError) });
  }
  const code = /^[A-Z][A-Z0-9_]*(?=\s|$)/.exec(text)?.[0] ?? "ERR";
  const afterMs = /retry_after_ms=(\d+)/.exec(text)?.[1];
  const retryAfterMs = afterMs === undefined ? undefined : Number(afterMs);
  return new ConvqError(code, text, { retry: PASSES.has(code) || PASSES_TOO.test(text), retryAfterMs });
}

/** How long to wait before the next try: 50 ms, doubling to 2 s, or as long as was said; with jitter, so that not all come at once. */
function pauseAfter(failures, wantedMs = FIRST_PAUSE_MS * 2 ** Math.min(failures, 10)) {
  return Math.min(wantedMs, LONGEST_PAUSE_MS) * (0.75 + Math.random() / 2);
}

/** That promise, or a rejection as soon as the time is over or the signal says so. */
function within(promise, leftMs, signal = undefined) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => end(reject, new ConvqError("timeout", "no answer in time", { retry: true })), leftMs);
    const abort = () => end(reject, aborted());
    const end = (settle, value) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      settle(value);
    };
    signal?.addEventListener("abort", abort);
    promise.then((value) => end(resolve, value), (error) => end(reject, error));
    if (signal?.aborted) abort();
  });
}

function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((fulfil, refuse) => ([resolve, reject] = [fulfil, refuse]));
  promise.catch(() => {}); // nobody may be waiting for it
  return { promise, resolve, reject };
}

const aborted = () => new ConvqError("aborted", "the call was aborted");

function count(name, value, least = 0) {
  if (!Number.isInteger(value) || value < least || value > 2 ** 31 - 1) {
    throw new TypeError(`${name} is a whole number (no text) from ${least} to 2147483647, not ${shown(value)}`);
  }
  return value;
}

function text(name, value) {
  if (typeof value !== "string") throw new TypeError(`${name} is a text, not ${shown(value)}`);
  return value;
}

/** @returns {string} a value as it would be typed, cut short */
function shown(value) {
  const typed = typeof value === "string" || Array.isArray(value) ? JSON.stringify(value) : String(value);
  return typed.length > 60 ? `${typed.slice(0, 60)}…` : typed;
}

/** @returns the options, all of which there are. Throws TypeError for anything else. */
function known(what, names, options = {}) {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new TypeError(`the ${what}s are an object like { ${names[0]}: … }, not ${shown(options)}; there are ${names.join(", ")}`);
  }
  const unknown = Object.keys(options).filter((name) => !names.includes(name));
  if (unknown.length > 0) throw new TypeError(`no such ${what}: ${unknown.join(", ")}; there are ${names.join(", ")}`);
  return options;
}

/** @returns {(string | Buffer)[]} field, value, … of a job. Throws TypeError for what cannot be right. */
function fieldsOf(/** @type {Input} */ input, /** @type {JobOptions} */ options) {
  if (options.id !== undefined && !/^[A-Za-z0-9._:-]{1,64}$/.test(options.id)) {
    throw new TypeError("id is 1 to 64 characters of A-Z a-z 0-9 . _ : -");
  }
  if (!Object.hasOwn(STREAMS, options.priority ?? "normal")) throw new TypeError("priority is high, normal or low");
  const fields = payloadOf(input);
  if (options.ttlMs !== undefined) fields.push("ttl_ms", String(count("ttlMs", options.ttlMs)));
  if (options.topK !== undefined) fields.push("top_k", String(count("topK", options.topK, 1)));
  if (options.version !== undefined) fields.push("version", String(count("version", options.version, 1)));
  if (options.outputs !== undefined) fields.push("outputs", namesOf("outputs", options.outputs, "conv1"));
  if (options.minScore !== undefined) fields.push("min_score", share("minScore", options.minScore));
  if (options.iou !== undefined) fields.push("iou", share("iou", options.iou));
  if (options.maxDetections !== undefined) fields.push("max_detections", String(count("maxDetections", options.maxDetections, 1)));
  if (options.labels !== undefined) fields.push("labels", namesOf("labels", options.labels, "person"));
  if (options.format !== undefined) fields.push("format", namesOf("format", options.format, "polygon"));
  if (options.traceparent !== undefined) fields.push("traceparent", text("traceparent", options.traceparent));
  return fields;
}

function namesOf(/** @type {string} */ option, /** @type {string[]} */ names, /** @type {string} */ example) {
  if (!Array.isArray(names) || names.length === 0 || names.some((name) => typeof name !== "string" || name === "")) {
    throw new TypeError(`${option} is a list of names like ["${example}"], not ${shown(names)}`);
  }
  return names.join(",");
}

/** @returns {string} a number from 0 to 1 as the wire has it: at most six decimals, and none that say nothing */
function share(/** @type {string} */ option, /** @type {number} */ value) {
  if (typeof value !== "number" || !(value >= 0 && value <= 1)) {
    throw new TypeError(`${option} is a number from 0 to 1, not ${shown(value)}`);
  }
  return value.toFixed(6).replace(/\.?0+$/, "");
}

function payloadOf(/** @type {Input} */ input) {
  if (input instanceof ArrayBuffer) return ["image", Buffer.from(input)];
  if (input instanceof Uint8Array) return ["image", bytesOf(input)];
  if (!(input?.tensor instanceof Float32Array || input?.tensor instanceof Uint8Array) || !Array.isArray(input.shape)) {
    throw new TypeError("an input is the bytes of an image file (Buffer, Uint8Array, ArrayBuffer), or { tensor, shape }");
  }
  const dtype = input.tensor instanceof Float32Array ? "float32" : "uint8";
  const data = bytesOf(input.tensor);
  const little = dtype === "float32" && endianness() === "BE" ? Buffer.from(data).swap32() : data;
  return ["tensor", little, "dtype", dtype, "shape", input.shape.join(",")];
}

/** @returns {Buffer} the same memory */
function bytesOf(/** @type {Uint8Array | Float32Array} */ array) {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength);
}
