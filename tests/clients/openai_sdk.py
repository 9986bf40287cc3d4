"""OpenAI's Python SDK against the gateway: answers, streams, tools, receipts, typed errors, and how often it asks."""

import openai

from checks import APP_KEY, BAD_KEY, BASE, BROKE_KEY, Count, check, equal, receipt, run_all

QUESTION = [{"role": "user", "content": "How heavy is the lorry?"}]
TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "weighs a lorry",
          "parameters": {"type": "object", "properties": {"plate": {"type": "string"}, "axles": {"type": "integer"}}}}}]


def client(key=APP_KEY, base=f"{BASE}/v1", count=None, **options):
    count = count or Count()
    http = openai.DefaultHttpxClient(event_hooks={"request": [count.hook]})
    return openai.OpenAI(api_key=key, base_url=base, http_client=http, **options)


@check
def plain_answer_is_metered_as_reported():
    raw = client().chat.completions.with_raw_response.create(model="gpt-5.2", messages=QUESTION, max_completion_tokens=300)
    answer = raw.parse()
    call = receipt(raw.headers["wb-request-id"])
    equal(call["usage"]["input_tokens"], answer.usage.prompt_tokens, "input")
    equal(call["usage"]["output_tokens"], answer.usage.completion_tokens, "output")
    equal(call["model_served"], answer.model, "model")
    equal((call["outcome"], call["usage_basis"], call["cost_basis"]), ("completed", "vendor", "exact"))
    assert float(call["cost_usd"]) > 0


@check
def prefixed_path_works_like_the_bare_one():
    answer = client(base=f"{BASE}/openai/v1").chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert answer.choices[0].message.content


@check
def stream_without_usage_shows_none_and_is_metered_all_the_same():
    raw = client().chat.completions.with_raw_response.create(model="gpt-4o", messages=QUESTION, stream=True)
    chunks = list(raw.parse())
    assert all(chunk.usage is None for chunk in chunks), "a usage chunk that nobody asked for"
    assert all(chunk.choices for chunk in chunks), "an empty chunk that nobody asked for"
    call = receipt(raw.headers["wb-request-id"])
    equal((call["stream"], call["usage_basis"], call["finish_reason"]), (True, "vendor", "stop"))
    written = sum(1 for chunk in chunks if chunk.choices[0].delta.content)
    equal(call["usage"]["output_tokens"], written, "one token per piece")


@check
def stream_with_usage_keeps_it():
    raw = client().chat.completions.with_raw_response.create(
        model="gpt-5.4-mini", messages=QUESTION, stream=True, stream_options={"include_usage": True})
    last = list(raw.parse())[-1]
    call = receipt(raw.headers["wb-request-id"])
    equal(call["usage"]["output_tokens"], last.usage.completion_tokens)
    equal(call["usage"]["input_tokens"], last.usage.prompt_tokens)


@check
def tool_calls_arrive_and_are_counted():
    for stream in (False, True):
        raw = client().chat.completions.with_raw_response.create(
            model="gpt-4o", messages=QUESTION, tools=TOOLS, tool_choice="required", stream=stream)
        parsed = raw.parse()
        if stream:
            names = [c.function.name for chunk in parsed for choice in chunk.choices
                     for c in choice.delta.tool_calls or [] if c.function.name]
        else:
            names = [c.function.name for c in parsed.choices[0].message.tool_calls]
        call = receipt(raw.headers["wb-request-id"])
        equal(names, ["weigh"])
        equal((call["tools"]["offered"], call["tools"]["called"], call["tools"]["names"]), (1, 1, ["weigh"]))
        equal(call["finish_reason"], "tool_calls")


@check
def long_prompt_is_cached_the_second_time():
    messages = [{"role": "user", "content": "rules of the weighbridge, python " * 300}]
    for _ in range(2):
        raw = client().chat.completions.with_raw_response.create(model="gpt-4.1", messages=messages)
        answer = raw.parse()
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached > 0
    equal(receipt(raw.headers["wb-request-id"])["usage"]["cache_read_tokens"], cached)


@check
def embeddings_come_back_whole():
    raw = client().embeddings.with_raw_response.create(model="text-embedding-3-small", input=["a lorry", "a van"])
    answer = raw.parse()
    equal([len(item.embedding) for item in answer.data], [1536, 1536])
    equal(receipt(raw.headers["wb-request-id"])["usage"]["input_tokens"], answer.usage.prompt_tokens)


@check
def responses_plain_and_streamed():
    raw = client().responses.with_raw_response.create(model="gpt-5.2", input="How heavy?", max_output_tokens=400)
    answer = raw.parse()
    call = receipt(raw.headers["wb-request-id"])
    equal(call["usage"]["output_tokens"], answer.usage.output_tokens)
    equal(call["usage"]["output_reasoning_tokens"], answer.usage.output_tokens_details.reasoning_tokens)
    raw = client().responses.with_raw_response.create(model="gpt-4.1", input="How heavy?", stream=True)
    last = list(raw.parse())[-1]
    equal(last.type, "response.completed")
    equal(receipt(raw.headers["wb-request-id"])["usage"]["output_tokens"], last.response.usage.output_tokens)


@check
def background_response_is_booked_once():
    made = client().responses.with_raw_response.create(model="gpt-5.4-mini", input="How heavy?", background=True)
    queued = made.parse()
    costs = []
    for _ in range(3):
        raw = client().responses.with_raw_response.retrieve(queued.id)
        answer = raw.parse()
        costs.append(receipt(raw.headers["wb-request-id"])["cost_usd"])
    equal(answer.status, "completed")
    call = receipt(made.headers["wb-request-id"])
    equal(call["usage"]["output_tokens"], answer.usage.output_tokens)
    assert float(call["cost_usd"]) > 0
    equal(costs, ["0", "0", "0"], "looking at it costs nothing")


@check
def model_list_is_read():
    assert "gpt-4o" in [model.id for model in client(base=f"{BASE}/openai/v1").models.list()]
    assert list(client().models.list()) is not None


@check
def broken_stream_raises():
    for marker in ("sandbox-abort", "sandbox-stream-error"):
        stream = client(max_retries=0).chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True, user=marker)
        try:
            list(stream)
        except openai.APIError:
            continue
        raise AssertionError(f"{marker} ended as if all were well")


def refused(make, kind, status, code, requests):
    count = Count()
    try:
        make(count)
    except openai.APIStatusError as error:
        assert isinstance(error, kind), f"{type(error).__name__}, expected {kind.__name__}"
        equal(error.status_code, status)
        equal(error.code, code)
        assert error.request_id, "no request id"
        equal(count.requests, requests, "requests")
        return error
    raise AssertionError("not refused")


def ask(key=APP_KEY, base=f"{BASE}/v1", model="gpt-4o", **more):
    return lambda count: client(key=key, base=base, count=count).chat.completions.create(
        model=model, messages=QUESTION, **more)


@check
def wrong_key_is_an_authentication_error_and_is_sent_once():
    refused(ask(key=BAD_KEY), openai.AuthenticationError, 401, "invalid_api_key", 1)


@check
def exhausted_budget_is_a_402_that_names_it_and_is_sent_once():
    error = refused(ask(key=BROKE_KEY), openai.APIStatusError, 402, "budget_exceeded", 1)
    assert "broke-month" in error.message, error.message
    equal(error.response.headers["wb-budget"], "broke-month")
    equal(error.response.headers["wb-deny"], "budget_exceeded")
    assert "retry-after" not in error.response.headers
    assert error.response.headers["wb-budget-resets-at"]


@check
def denied_model_is_a_permission_error_and_is_sent_once():
    refused(ask(model="gpt-5.2-pro"), openai.PermissionDeniedError, 403, "policy_denied", 1)


@check
def unknown_model_is_a_not_found_error_and_is_sent_once():
    refused(ask(model="no-such-model"), openai.NotFoundError, 404, "model_not_found", 1)


@check
def body_over_the_limit_is_a_413_and_is_sent_once():
    big = [{"role": "user", "content": "x" * (1 << 20)}]
    make = lambda count: client(count=count).chat.completions.create(model="gpt-4o", messages=big)
    count = Count()
    try:
        make(count)
    except openai.APIStatusError as error:
        equal((error.status_code, count.requests), (413, 1))
        return
    raise AssertionError("not refused")


@check
def provider_that_is_down_is_a_503_and_is_asked_three_times():
    count = Count()
    try:
        ask(base=f"{BASE}/down/v1", model="nothing-1")(count)
    except openai.InternalServerError as error:
        equal((error.status_code, count.requests), (503, 3))
        return
    raise AssertionError("not refused")


@check
def errors_of_the_provider_pass_with_their_types_and_counts():
    table = [(400, openai.BadRequestError, 1), (401, openai.AuthenticationError, 1), (403, openai.PermissionDeniedError, 1),
             (404, openai.NotFoundError, 1), (409, openai.ConflictError, 3), (422, openai.UnprocessableEntityError, 1),
             (429, openai.RateLimitError, 3), (500, openai.InternalServerError, 3)]
    for status, kind, requests in table:
        count = Count()
        try:
            ask(user=f"sandbox-error-{status}")(count)
        except openai.APIStatusError as error:
            assert isinstance(error, kind), f"{status}: {type(error).__name__}"
            equal((error.status_code, count.requests), (status, requests), f"status {status}")
        else:
            raise AssertionError(f"{status} was not raised")


run_all(f"openai-python {openai.__version__}")
