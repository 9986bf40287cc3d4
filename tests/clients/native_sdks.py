"""The Python SDKs of Google, AWS, Cohere, Ollama and Azure against the gateway, by base URL and key alone: answers, streams,
receipts, typed errors, and how often they ask."""

import boto3
import cohere
import ollama
import openai
from botocore.config import Config
from botocore.exceptions import ClientError
from google import genai
from google.genai import errors, types

from checks import APP_KEY, BAD_KEY, BASE, BROKE_KEY, check, equal, receipt, run_all

QUESTION = "How heavy is the lorry?"


def google(key=APP_KEY, **options):
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=f"{BASE}/gemini", **options))


def last_call(headers):
    return receipt(headers["wb-request-id"])


def counts(call, expected):
    found = {name: call["usage"].get(name, 0) for name in expected}
    equal(found, expected, "usage")
    equal((call["outcome"], call["usage_basis"]), ("completed", "vendor"))


GEMINI = {"input_tokens": 11, "output_tokens": 8, "output_reasoning_tokens": 3}


@check
def google_plain_answer_is_metered_with_its_thoughts():
    client = google()
    answer = client.models.generate_content(model="gemini-2.5-flash", contents=QUESTION)
    equal(answer.text, "4 tonnes")
    call = last_call(answer.sdk_http_response.headers)
    counts(call, GEMINI)
    equal((call["endpoint"], call["model_served"], call["finish_reason"]), ("generateContent", "gemini-2.5-flash", "stop"))
    equal(call["cost_basis"], "exact")


@check
def google_stream_is_metered_once():
    client = google()
    chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents=QUESTION))
    equal("".join(chunk.text for chunk in chunks), "4 tonnes")
    call = last_call(chunks[-1].sdk_http_response.headers)
    counts(call, GEMINI)
    equal(call["stream"], True)


@check
def google_tool_calls_are_counted():
    weigh = types.FunctionDeclaration(name="weigh", parameters={"type": "OBJECT", "properties": {"plate": {"type": "STRING"}}})
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[weigh])])
    client = google()
    answer = client.models.generate_content(model="gemini-2.5-flash", contents=QUESTION, config=config)
    equal(answer.function_calls[0].name, "weigh")
    call = last_call(answer.sdk_http_response.headers)
    equal((call["tools"]["called"], call["finish_reason"]), (1, "tool_calls"))


@check
def google_embeddings_are_metered_and_counting_is_free():
    client = google()
    answer = client.models.embed_content(model="gemini-embedding-2", contents=QUESTION)
    counts(last_call(answer.sdk_http_response.headers), {"input_tokens": 6})
    counted = client.models.count_tokens(model="gemini-2.5-flash", contents=QUESTION)
    equal(counted.total_tokens, 11)
    equal(last_call(counted.sdk_http_response.headers)["cost_usd"], "0")


@check
def google_refusals_are_typed_and_asked_for_once():
    for key, code, status in ((BAD_KEY, 401, "UNAUTHENTICATED"), (BROKE_KEY, 402, "FAILED_PRECONDITION")):
        try:
            client = google(key)
            client.models.generate_content(model="gemini-2.5-flash", contents=QUESTION)
            raise AssertionError("not refused")
        except errors.ClientError as error:
            equal((error.code, error.status), (code, status))
            assert "Weighbridge" in error.message


def bedrock(key=APP_KEY, token=None):
    # The whole key as access key id, or as session token beside any access key.
    names = {"aws_access_key_id": key} if token is None else {"aws_access_key_id": "AKIAANYTHING0000", "aws_session_token": token}
    return boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=f"{BASE}/bedrock",
                        aws_secret_access_key="unused", config=Config(retries={"total_max_attempts": 3, "mode": "standard"}), **names)


MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
MESSAGES = [{"role": "user", "content": [{"text": QUESTION}]}]
CONVERSE = {"input_tokens": 109, "cache_read_tokens": 100, "output_tokens": 4}


@check
def bedrock_converse_is_metered_whichever_way_the_key_is_sent():
    for client in (bedrock(), bedrock(token=APP_KEY)):
        answer = client.converse(modelId=MODEL, messages=MESSAGES)
        equal(answer["output"]["message"]["content"][0]["text"], "4 tonnes")
        call = last_call(answer["ResponseMetadata"]["HTTPHeaders"])
        counts(call, CONVERSE)
        equal((call["model_requested"], call["provider_request_id"]), (MODEL, "req-1"))


@check
def bedrock_streams_are_metered_frame_by_frame():
    answer = bedrock().converse_stream(modelId=MODEL, messages=MESSAGES)
    events = list(answer["stream"])
    equal(events[-1]["metadata"]["usage"]["outputTokens"], 4)
    counts(last_call(answer["ResponseMetadata"]["HTTPHeaders"]), CONVERSE)
    body = '{"anthropic_version":"bedrock-2023-05-31","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}'
    answer = bedrock().invoke_model_with_response_stream(modelId=MODEL, body=body)
    equal(len(list(answer["body"])), 4)
    counts(last_call(answer["ResponseMetadata"]["HTTPHeaders"]), {"input_tokens": 9, "output_tokens": 4})


@check
def bedrock_invoke_is_metered_in_the_vendors_shape():
    body = '{"anthropic_version":"bedrock-2023-05-31","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}'
    answer = bedrock().invoke_model(modelId=MODEL, body=body)
    assert b"4 tonnes" in answer["body"].read()
    call = last_call(answer["ResponseMetadata"]["HTTPHeaders"])
    counts(call, {"input_tokens": 9, "output_tokens": 4})
    equal((call["endpoint"], call["model_served"]), ("invoke.messages", "claude-sonnet-4-5"))


@check
def bedrock_refusals_are_typed_and_asked_for_once():
    for key, status, name in ((BAD_KEY, 401, "UnrecognizedClientException"), (BROKE_KEY, 402, "ServiceQuotaExceededException")):
        try:
            bedrock(key).converse(modelId=MODEL, messages=MESSAGES)
            raise AssertionError("not refused")
        except ClientError as error:
            equal(error.response["Error"]["Code"], name)
            equal(error.response["ResponseMetadata"]["HTTPStatusCode"], status)
            equal(error.response["ResponseMetadata"]["RetryAttempts"], 0, "retries")


@check
def cohere_is_metered_by_its_billed_units():
    client = cohere.ClientV2(api_key=APP_KEY, base_url=f"{BASE}/cohere")
    raw = client.with_raw_response.chat(model="command-a-03-2025", messages=[{"role": "user", "content": QUESTION}])
    equal(raw.data.message.content[0].text, "4 tonnes")
    counts(last_call(raw.headers), {"input_tokens": 8, "output_tokens": 3})
    events = list(client.chat_stream(model="command-a-03-2025", messages=[{"role": "user", "content": QUESTION}]))
    equal(events[-1].type, "message-end")
    raw = client.with_raw_response.embed(model="embed-v4.0", input_type="search_query", embedding_types=["float"], texts=["x"])
    counts(last_call(raw.headers), {"input_tokens": 2})
    raw = client.with_raw_response.rerank(model="rerank-v3.5", query="x", documents=["a", "b"])
    equal(last_call(raw.headers)["cost_basis"], "unpriced")


@check
def cohere_refusals_are_errors_of_its_own():
    try:
        cohere.ClientV2(api_key=BAD_KEY, base_url=f"{BASE}/cohere").chat(
            model="command-a-03-2025", messages=[{"role": "user", "content": QUESTION}])
        raise AssertionError("not refused")
    except cohere.errors.UnauthorizedError as error:
        assert "Weighbridge" in str(error.body)


@check
def ollama_answers_and_streams_pass():
    client = ollama.Client(host=f"{BASE}/ollama", headers={"authorization": f"Bearer {APP_KEY}"})
    answer = client.chat(model="llama3", messages=[{"role": "user", "content": QUESTION}])
    equal((answer.message.content, answer.eval_count), ("4 tonnes", 5))
    parts = list(client.generate(model="llama3", prompt=QUESTION, stream=True))
    equal("".join(part.response for part in parts), "4 tonnes")
    equal(len(client.embed(model="llama3", input="x").embeddings), 1)
    try:
        ollama.Client(host=f"{BASE}/ollama", headers={"authorization": f"Bearer {BAD_KEY}"}).chat(model="llama3", messages=[])
        raise AssertionError("not refused")
    except ollama.ResponseError as error:
        assert error.status_code == 401 and "Weighbridge" in error.error


@check
def azure_deployments_are_metered_by_the_model_that_served():
    client = openai.AzureOpenAI(azure_endpoint=f"{BASE}/azure", api_version="2024-10-21", api_key=APP_KEY)
    raw = client.chat.completions.with_raw_response.create(model="our-deployment", messages=[{"role": "user", "content": QUESTION}])
    equal(raw.parse().choices[0].message.content, "4 tonnes")
    call = last_call(raw.headers)
    counts(call, {"input_tokens": 9, "output_tokens": 4})
    equal((call["model_requested"], call["model_served"]), ("our-deployment", "gpt-4o-2024-11-20"))


if __name__ == "__main__":
    run_all("native")
