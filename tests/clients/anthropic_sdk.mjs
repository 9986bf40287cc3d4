// Anthropic's Node SDK against the gateway.
import Anthropic from "@anthropic-ai/sdk";
import { APP_KEY, BAD_KEY, BASE, BROKE_KEY, assert, check, counting, receipt, runAll } from "./checks.mjs";

const messages = [{ role: "user", content: "How heavy is the lorry?" }];
const model = "claude-sonnet-5-5";
const tools = [{ name: "weigh", input_schema: { type: "object", properties: { plate: { type: "string" } } } }];
const client = (seen, options = {}) => new Anthropic({ apiKey: APP_KEY, baseURL: BASE, fetch: seen.fetch, ...options });

check("plain answer is metered as reported", async () => {
  const seen = counting();
  const answer = await client(seen).messages.create({ model, max_tokens: 300, messages });
  const call = await receipt(seen.headers.get("wb-request-id"));
  assert.equal(call.usage.input_tokens, answer.usage.input_tokens);
  assert.equal(call.usage.output_tokens, answer.usage.output_tokens);
  assert.equal(call.model_served, answer.model);
});

check("stream is metered by its last word", async () => {
  const seen = counting();
  const final = await client(seen).messages.stream({ model, max_tokens: 300, messages }).finalMessage();
  const call = await receipt(seen.headers.get("wb-request-id"));
  assert.equal(call.usage.output_tokens, final.usage.output_tokens);
  assert.equal(call.stream, true);
});

check("tool calls arrive and are counted", async () => {
  const seen = counting();
  const final = await client(seen).messages.stream({ model, max_tokens: 300, messages, tools, tool_choice: { type: "any" } }).finalMessage();
  assert.equal(final.content[0].name, "weigh");
  assert.equal((await receipt(seen.headers.get("wb-request-id"))).tools.called, 1);
});

check("counting tokens costs nothing", async () => {
  const seen = counting();
  assert.ok((await client(seen).messages.countTokens({ model, messages })).input_tokens > 0);
  assert.equal((await receipt(seen.headers.get("wb-request-id"))).cost_usd, "0");
});

check("broken stream raises", async () => {
  for (const user_id of ["sandbox-abort", "sandbox-stream-error"]) {
    const stream = client(counting(), { maxRetries: 0 }).messages.stream({ model, max_tokens: 300, messages, metadata: { user_id } });
    await assert.rejects(stream.finalMessage(), undefined, user_id);
  }
});

const refusals = [
  ["wrong key", { apiKey: BAD_KEY }, {}, "AuthenticationError", 401, 1],
  ["exhausted budget", { apiKey: BROKE_KEY }, {}, "PaymentRequiredError", 402, 1],
  ["denied model", {}, { model: "claude-opus-5-5" }, "PermissionDeniedError", 403, 1],
  ["unknown model", {}, { model: "no-such-model" }, "NotFoundError", 404, 1],
  ["rate limit of the provider", {}, { metadata: { user_id: "sandbox-error-429" } }, "RateLimitError", 429, 3],
  ["overload of the provider", {}, { metadata: { user_id: "sandbox-error-529" } }, "OverloadedError", 529, 3],
];
for (const [name, options, fields, kind, status, requests] of refusals) {
  check(`${name} is a ${status}, typed, and is sent ${requests} times`, async () => {
    const seen = counting();
    const asking = client(seen, options).messages.create({ model, max_tokens: 300, messages, ...fields });
    const error = await asking.then(() => assert.fail("not refused"), (error) => error);
    assert.equal(error.constructor.name, kind, error?.message);
    assert.equal(error.status, status);
    assert.equal(seen.requests, requests);
    assert.ok(error.requestID, "no request id");
  });
}

await runAll("anthropic-node 1.12.0");
