// node drive.mjs URL OPTIONS: does what its standard input says with service/clients/convq.mjs, a line of JSON a call, and
// prints a line for each when it ends: {"n", "value"} or {"n", "error": {"code", "message", "retry"}}.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { Convq } from "./convq.mjs";

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const told = ({ code, message, retry }) => ({ code, message, retry });

async function input({ file, tensor, shape, dtype }) {
  if (file !== undefined) return readFile(file);
  return { tensor: (dtype === "float32" ? Float32Array : Uint8Array).from(tensor), shape };
}

async function carriedOut(convq, { call, args = [], options, abortAfterMs, ...given }) {
  if (call === "cancel") return convq.cancel(...args);
  if (call === "served") return [...(await convq.served()).keys()];
  if (call === "result") return convq.result(args[0], options);
  const signal = abortAfterMs === undefined ? undefined : AbortSignal.timeout(abortAfterMs);
  return convq[call](await input(given), { ...options, ...(signal && { signal }) });
}

let convq;
try {
  convq = await Convq.connect(process.argv[2], JSON.parse(process.argv[3]));
} catch (error) {
  say({ n: 0, error: { ...told(error), kind: error.name } });
  process.exit(1);
}
say({ n: 0, value: "connected" });
for await (const line of createInterface({ input: process.stdin })) {
  const { n, ...call } = JSON.parse(line);
  carriedOut(convq, call).then(
    (value) => say({ n, value: value ?? null }),
    (error) => say({ n, error: { ...told(error), kind: error.name } }),
  );
}
await convq.close();
