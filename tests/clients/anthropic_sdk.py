"""Anthropic's Python SDK against the gateway: answers, streams, tools, receipts, typed errors, and how often it asks."""

import anthropic

from checks import APP_KEY, BAD_KEY, BASE, BROKE_KEY, Count, check, equal, receipt, run_all

QUESTION = [{"role": "user", "content": "How heavy is the lorry?"}]
TOOLS = [{"name": "weigh", "description": "weighs a lorry",
          "input_schema": {"type": "object", "properties": {"plate": {"type": "string"}, "axles": {"type": "integer"}}}}]
MODEL = "claude-sonnet-5-5"


def client(key=APP_KEY, base=BASE, count=None, **options):
    count = count or Count()
    http = anthropic.DefaultHttpxClient(event_hooks={"request": [count.hook]})
    return anthropic.Anthropic(api_key=key, base_url=base, http_client=http, **options)


def same_usage(call, usage):
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    equal(call["usage"]["input_tokens"], usage.input_tokens + read + written, "input")
    equal(call["usage"]["output_tokens"], usage.output_tokens, "output")
    equal(call["usage"].get("cache_read_tokens", 0), read, "cache reads")
    equal(call["usage"].get("cache_write_tokens", 0), written, "cache writes")


@check
def plain_answer_is_metered_as_reported():
    for base in (BASE, f"{BASE}/anthropic"):
        raw = client(base=base).messages.with_raw_response.create(model=MODEL, max_tokens=300, messages=QUESTION)
        answer = raw.parse()
        call = receipt(raw.headers["wb-request-id"])
        same_usage(call, answer.usage)
        equal(call["model_served"], answer.model)
        equal((call["outcome"], call["usage_basis"], call["cost_basis"]), ("completed", "vendor", "exact"))


@check
def stream_is_metered_by_its_last_word():
    with client().messages.stream(model=MODEL, max_tokens=300, messages=QUESTION) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
        call_id = stream.response.headers["wb-request-id"]
    assert text
    call = receipt(call_id)
    same_usage(call, final.usage)
    equal((call["stream"], call["finish_reason"]), (True, "stop"))


@check
def cache_writes_and_reads_are_metered():
    system = [{"type": "text", "text": "rules of the weighbridge, python " * 300, "cache_control": {"type": "ephemeral"}}]
    seen = []
    for _ in range(2):
        raw = client().messages.with_raw_response.create(model=MODEL, max_tokens=50, messages=QUESTION, system=system)
        usage = raw.parse().usage
        same_usage(receipt(raw.headers["wb-request-id"]), usage)
        seen.append((usage.cache_creation_input_tokens > 0, usage.cache_read_input_tokens > 0))
    equal(seen, [(True, False), (False, True)])


@check
def tool_calls_arrive_and_are_counted():
    raw = client().messages.with_raw_response.create(
        model=MODEL, max_tokens=300, messages=QUESTION, tools=TOOLS, tool_choice={"type": "any"})
    answer = raw.parse()
    equal([block.name for block in answer.content if block.type == "tool_use"], ["weigh"])
    call = receipt(raw.headers["wb-request-id"])
    equal((call["tools"]["called"], call["tools"]["names"], call["finish_reason"]), (1, ["weigh"], "tool_calls"))
    with client().messages.stream(
            model=MODEL, max_tokens=300, messages=QUESTION, tools=TOOLS, tool_choice={"type": "any"}) as stream:
        final = stream.get_final_message()
        call_id = stream.response.headers["wb-request-id"]
    assert isinstance(final.content[0].input, dict)
    equal(receipt(call_id)["tools"]["called"], 1)


@check
def counting_tokens_costs_nothing():
    raw = client().messages.with_raw_response.count_tokens(model=MODEL, messages=QUESTION)
    assert raw.parse().input_tokens > 0
    equal(receipt(raw.headers["wb-request-id"])["cost_usd"], "0")


@check
def broken_stream_raises():
    for marker in ("sandbox-abort", "sandbox-stream-error"):
        try:
            with client(max_retries=0).messages.stream(
                    model=MODEL, max_tokens=300, messages=QUESTION, metadata={"user_id": marker}) as stream:
                stream.get_final_message()
        except anthropic.APIError:
            continue
        raise AssertionError(f"{marker} ended as if all were well")


@check
def model_list_has_the_shape_of_the_caller():
    assert list(client(base=f"{BASE}/anthropic").models.list()) is not None


def refused(make, kind, status, requests):
    count = Count()
    try:
        make(count)
    except anthropic.APIStatusError as error:
        assert isinstance(error, kind), f"{type(error).__name__}, expected {kind.__name__}"
        equal((error.status_code, count.requests), (status, requests), "status and requests")
        assert error.request_id, "no request id"
        return error
    raise AssertionError("not refused")


def ask(key=APP_KEY, base=BASE, model=MODEL, messages=QUESTION, **more):
    return lambda count: client(key=key, base=base, count=count).messages.create(
        model=model, max_tokens=300, messages=messages, **more)


@check
def wrong_key_is_an_authentication_error_and_is_sent_once():
    refused(ask(key=BAD_KEY), anthropic.AuthenticationError, 401, 1)


@check
def exhausted_budget_is_a_payment_required_error_and_is_sent_once():
    error = refused(ask(key=BROKE_KEY), anthropic.PaymentRequiredError, 402, 1)
    equal(error.body["error"]["type"], "billing_error")
    assert "broke-month" in str(error)
    assert "retry-after" not in error.response.headers


@check
def denied_model_is_a_permission_error_and_is_sent_once():
    refused(ask(model="claude-opus-5-5"), anthropic.PermissionDeniedError, 403, 1)


@check
def unknown_model_is_a_not_found_error_and_is_sent_once():
    refused(ask(model="no-such-model"), anthropic.NotFoundError, 404, 1)


@check
def body_over_the_limit_is_typed_and_is_sent_once():
    big = [{"role": "user", "content": "x" * (1 << 20)}]
    refused(ask(messages=big), anthropic.ContentTooLargeError, 413, 1)


@check
def provider_that_is_down_is_overloaded_and_is_asked_three_times():
    refused(ask(base=f"{BASE}/down-anthropic", model="nothing-1"), anthropic.OverloadedError, 529, 3)


@check
def errors_of_the_provider_pass_with_their_types_and_counts():
    table = [(400, anthropic.BadRequestError, 1), (403, anthropic.PermissionDeniedError, 1),
             (404, anthropic.NotFoundError, 1), (429, anthropic.RateLimitError, 3),
             (500, anthropic.InternalServerError, 3), (529, anthropic.OverloadedError, 3)]
    for status, kind, requests in table:
        refused(ask(metadata={"user_id": f"sandbox-error-{status}"}), kind, status, requests)


run_all(f"anthropic-python {anthropic.__version__}")
