// node client.mjs REDIS_URL IMAGE: push one image, print its label. All that a client of convq needs.
import { readFile } from "node:fs/promises";
import { createClient } from "redis";

const [url, image] = process.argv.slice(2);
const redis = await createClient({ url }).connect();
const id = await redis.xAdd("convq:{lenet}:jobs", "*", { image: await readFile(image) });
const answer = await redis.blPop(`convq:{lenet}:result:${id}`, 10);
if (!answer) throw new Error(`no result for ${id} within 10 s`);
const { status, error, predictions } = JSON.parse(answer.element);
console.log(status === "ok" ? predictions[0].label : `${status}: ${error?.message}`);
redis.destroy();
