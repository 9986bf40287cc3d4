"""What no SDK shows: the HTTP/2 preface in the clear, costs in a trailer, and refusals of misplaced credentials."""

import json
import socket
import urllib.error
import urllib.request
from urllib.parse import urlparse

from checks import APP_KEY, BASE, check, equal, receipt, run_all

GATEWAY = urlparse(BASE)
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "How heavy?"}]}).encode()


def connect():
    return socket.create_connection((GATEWAY.hostname, GATEWAY.port), timeout=10)


@check
def http_2_preface_in_the_clear_is_answered_in_http_2():
    with connect() as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        head = peer.recv(9)
    equal(head[3], 4, "the first frame back is SETTINGS")


@check
def trailers_carry_the_cost_where_they_are_asked_for():
    with connect() as peer:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nTE: trailers\r\nconnection: close, TE\r\n"
                     b"content-type: application/json\r\nauthorization: Bearer " + APP_KEY.encode()
                     + b"\r\ncontent-length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY)
        answer = b""
        while piece := peer.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    text = answer.decode("latin-1").lower()
    call_id = [line for line in head.decode().lower().split("\r\n") if line.startswith("wb-request-id:")][0].split(": ")[1]
    cost = [line for line in text.split("\r\n") if line.startswith("wb-cost-usd:")]
    assert cost, "no wb-cost-usd, neither as header nor as trailer"
    equal(cost[0].split(": ")[1], receipt(call_id)["cost_usd"])


def status_of(path, headers):
    request = urllib.request.Request(f"{BASE}{path}", data=BODY, headers={"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


@check
def credential_is_taken_in_every_header():
    for name, value in (("authorization", f"Bearer {APP_KEY}"), ("x-api-key", APP_KEY), ("api-key", APP_KEY),
                        ("x-goog-api-key", APP_KEY)):
        equal(status_of("/v1/chat/completions", {name: value})[0], 200, name)


@check
def key_in_the_query_is_refused_and_named():
    status, headers = status_of(f"/v1/chat/completions?key={APP_KEY}", {})
    equal((status, headers["wb-deny"]), (400, "credential_in_query"))


@check
def no_credential_and_two_credentials_are_refused():
    status, headers = status_of("/v1/chat/completions", {})
    equal((status, headers["wb-deny"]), (401, "credential_missing"))
    other = APP_KEY[:-8] + ("A" if APP_KEY[-8] != "A" else "B") + APP_KEY[-7:]
    status, headers = status_of("/v1/chat/completions", {"authorization": f"Bearer {APP_KEY}", "x-api-key": other})
    equal((status, headers["wb-deny"]), (400, "credential_ambiguous"))


@check
def vendor_key_is_recognised():
    status, headers = status_of("/v1/chat/completions", {"authorization": "Bearer sk-proj-" + "a" * 48})
    equal((status, headers["wb-deny"]), (401, "vendor_key_presented"))


@check
def doubled_version_is_answered_with_the_right_base():
    status, headers = status_of("/v1/v1/chat/completions", {"authorization": f"Bearer {APP_KEY}"})
    equal((status, headers["wb-deny"]), (404, "unknown_path"))


run_all("transport")
