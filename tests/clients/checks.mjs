// What both Node scripts share: a list of checks, how requests are counted, and the call's own receipt.
import assert from "node:assert/strict";

export const BASE = process.env.WB_GATEWAY;
export const APP_KEY = process.env.WB_APP_KEY;
export const BROKE_KEY = process.env.WB_BROKE_KEY;
export const BAD_KEY = process.env.WB_BAD_KEY;
export { assert };

const checks = [];
export const check = (name, run) => checks.push([name, run]);

export async function runAll(prefix) {
  let failed = 0;
  for (const [name, run] of checks) {
    try {
      await run();
      console.log(`ok ${prefix}: ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${prefix}: ${name}\n${error?.stack ?? error}`);
    }
  }
  process.exit(failed ? 1 : 0);
}

// A fetch that counts the requests an SDK sends, retries included, and keeps the last answer's headers.
export function counting() {
  const seen = { requests: 0, headers: null };
  seen.fetch = async (url, init) => {
    seen.requests += 1;
    const answer = await fetch(url, init);
    seen.headers = answer.headers;
    return answer;
  };
  return seen;
}

// The receipt of one's own call, as soon as it is settled.
export async function receipt(id) {
  for (let n = 0; n < 50; n += 1) {
    const answer = await fetch(`${BASE}/wb/v1/calls/${id}`, { headers: { authorization: `Bearer ${APP_KEY}` } });
    assert.equal(answer.status, 200);
    const body = await answer.json();
    const call = body.call ?? body;
    if (call.outcome !== "running") return call;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`call ${id} was never settled`);
}
