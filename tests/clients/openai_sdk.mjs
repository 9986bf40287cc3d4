// OpenAI's Node SDK against the gateway.
import OpenAI from "openai";
import { APP_KEY, BAD_KEY, BASE, BROKE_KEY, assert, check, counting, receipt, runAll } from "./checks.mjs";

const messages = [{ role: "user", content: "How heavy is the lorry?" }];
const tools = [{ type: "function", function: { name: "weigh", parameters: { type: "object", properties: { plate: { type: "string" } } } } }];
const client = (seen, options = {}) => new OpenAI({ apiKey: APP_KEY, baseURL: `${BASE}/v1`, fetch: seen.fetch, ...options });

check("plain answer is metered as reported", async () => {
  const seen = counting();
  const answer = await client(seen).chat.completions.create({ model: "gpt-5.2", messages, max_completion_tokens: 300 });
  const call = await receipt(seen.headers.get("wb-request-id"));
  assert.equal(call.usage.input_tokens, answer.usage.prompt_tokens);
  assert.equal(call.usage.output_tokens, answer.usage.completion_tokens);
  assert.equal(call.model_served, answer.model);
});

check("stream without usage shows none and is metered all the same", async () => {
  const seen = counting();
  let written = 0;
  for await (const chunk of await client(seen).chat.completions.create({ model: "gpt-4o", messages, stream: true })) {
    assert.equal(chunk.usage ?? null, null);
    assert.equal(chunk.choices.length, 1);
    if (chunk.choices[0].delta.content) written += 1;
  }
  const call = await receipt(seen.headers.get("wb-request-id"));
  assert.equal(call.usage.output_tokens, written);
  assert.equal(call.usage_basis, "vendor");
});

check("tool calls arrive and are counted", async () => {
  const seen = counting();
  const answer = await client(seen).chat.completions.create({ model: "gpt-4o", messages, tools, tool_choice: "required" });
  assert.equal(answer.choices[0].message.tool_calls[0].function.name, "weigh");
  assert.equal((await receipt(seen.headers.get("wb-request-id"))).tools.called, 1);
});

check("responses plain and streamed", async () => {
  const seen = counting();
  const answer = await client(seen).responses.create({ model: "gpt-5.2", input: "How heavy?" });
  assert.equal((await receipt(seen.headers.get("wb-request-id"))).usage.output_tokens, answer.usage.output_tokens);
  let last;
  for await (const event of await client(seen).responses.create({ model: "gpt-4.1", input: "How heavy?", stream: true })) last = event;
  assert.equal(last.type, "response.completed");
  const call = await receipt(seen.headers.get("wb-request-id"));
  assert.equal(call.usage.output_tokens, last.response.usage.output_tokens);
});

check("embeddings come back whole", async () => {
  const answer = await client(counting()).embeddings.create({ model: "text-embedding-3-small", input: "a lorry" });
  assert.equal(answer.data[0].embedding.length, 1536);
});

check("broken stream raises", async () => {
  for (const user of ["sandbox-abort", "sandbox-stream-error"]) {
    const stream = await client(counting(), { maxRetries: 0 }).chat.completions.create({ model: "gpt-4o", messages, stream: true, user });
    await assert.rejects(async () => { for await (const _ of stream); }, user);
  }
});

const refusals = [
  ["wrong key", { apiKey: BAD_KEY }, {}, OpenAI.AuthenticationError, 401, "invalid_api_key", 1],
  ["exhausted budget", { apiKey: BROKE_KEY }, {}, OpenAI.APIError, 402, "budget_exceeded", 1],
  ["denied model", {}, { model: "gpt-5.2-pro" }, OpenAI.PermissionDeniedError, 403, "policy_denied", 1],
  ["unknown model", {}, { model: "no-such-model" }, OpenAI.NotFoundError, 404, "model_not_found", 1],
  ["rate limit of the provider", {}, { user: "sandbox-error-429" }, OpenAI.RateLimitError, 429, "rate_limit_exceeded", 3],
  ["failure of the provider", {}, { user: "sandbox-error-500" }, OpenAI.InternalServerError, 500, null, 3],
];
for (const [name, options, fields, kind, status, code, requests] of refusals) {
  check(`${name} is a ${status}, typed, and is sent ${requests} times`, async () => {
    const seen = counting();
    const asking = client(seen, options).chat.completions.create({ model: "gpt-4o", messages, ...fields });
    const error = await asking.then(() => assert.fail("not refused"), (error) => error);
    assert.ok(error instanceof kind, `${error?.constructor?.name}: ${error?.message}`);
    assert.equal(error.status, status);
    assert.equal(error.code ?? null, code);
    assert.equal(seen.requests, requests);
    assert.ok(error.requestID, "no request id");
  });
}

await runAll("openai-node 6.49.0");
