"""A small upstream that answers as Google, AWS, Cohere, Ollama and Azure do, in the shapes of their documentation.

Usage: vendors.py PORT. The numbers are fixed, so that a receipt can be compared with them. What a provider must be sent (its
own credential, and no caller's) is checked here; a wrong one gets 401.
"""

import base64
import json
import struct
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GEMINI = {"promptTokenCount": 11, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "totalTokenCount": 19,
          "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 11}]}
CONVERSE = {"inputTokens": 9, "outputTokens": 4, "totalTokens": 113, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 0}
COHERE = {"billed_units": {"input_tokens": 8, "output_tokens": 3}, "tokens": {"input_tokens": 503, "output_tokens": 9}}


def frame(kind, payload):
    """One message of AWS's binary event stream."""
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    start = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    start += struct.pack(">I", zlib.crc32(start)) + headers + body
    return start + struct.pack(">I", zlib.crc32(start))


def gemini_chunk(text, finish=None, call=False):
    part = {"functionCall": {"name": "weigh", "args": {"plate": "A 1"}}} if call else {"text": text}
    candidate = {"content": {"role": "model", "parts": [part]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": GEMINI, "modelVersion": "gemini-2.5-flash", "responseId": "r-1"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, kind="application/json", status=200, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def pieces(self, pieces, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def refuse(self, why):
        self.answer({"error": {"code": 401, "message": why, "status": "UNAUTHENTICATED"}, "message": why}, status=401)

    def do_GET(self):
        self.answer({"models": []})

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        if any("wbk_" in value for value in self.headers.values()):
            return self.refuse("a key of the gateway's reached the provider")
        path, _, query = self.path.partition("?")
        try:
            if ":" in path.rsplit("/", 1)[-1]:
                self.google(path, query, body)
            elif path.startswith("/model/"):
                self.bedrock(path, body)
            elif path.startswith("/api/"):
                self.ollama(path, body)
            elif path.startswith("/openai/"):
                self.azure(body)
            else:
                self.cohere(path, body)
        except BrokenPipeError:
            pass

    def google(self, path, query, body):
        if self.headers.get("x-goog-api-key") != "sandbox-google":
            return self.refuse("x-goog-api-key is not the provider's")
        verb = path.rsplit(":", 1)[-1]
        call = "tools" in body
        if verb == "countTokens":
            return self.answer({"totalTokens": 11})
        if verb in ("embedContent", "batchEmbedContents"):
            vectors = {"embedding": {"values": [0.1]}} if verb == "embedContent" else {"embeddings": [{"values": [0.1]}]}
            return self.answer({**vectors, "usageMetadata": {"promptTokenCount": 6}})
        if verb == "generateContent":
            return self.answer(gemini_chunk("4 tonnes", "STOP", call))
        chunks = [gemini_chunk("4 "), gemini_chunk("tonnes", "STOP", call)]
        if "alt=sse" in query:
            return self.pieces([f"data: {json.dumps(c)}\r\n\r\n".encode() for c in chunks], "text/event-stream")
        pieces = [b"[" + json.dumps(chunks[0]).encode(), b"\r\n,\r\n" + json.dumps(chunks[1]).encode(), b"]"]
        self.pieces(pieces, "application/json; charset=UTF-8")

    def bedrock(self, path, body):
        authorization = self.headers.get("authorization", "")
        if not authorization.startswith("AWS4-HMAC-SHA256 Credential=AKIDSANDBOX000000/"):
            return self.refuse("the request is not signed with the provider's key")
        ids = [("x-amzn-requestid", "req-1")]
        text = [{"text": "4 tonnes"}]
        if path.endswith("/converse"):
            return self.answer({"output": {"message": {"role": "assistant", "content": text}}, "stopReason": "end_turn",
                                "usage": CONVERSE, "metrics": {"latencyMs": 1}}, headers=ids)
        if path.endswith("/converse-stream"):
            events = [("messageStart", {"role": "assistant"}),
                      ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "4 tonnes"}}),
                      ("contentBlockStop", {"contentBlockIndex": 0}), ("messageStop", {"stopReason": "end_turn"}),
                      ("metadata", {"usage": CONVERSE, "metrics": {"latencyMs": 1}})]
            return self.pieces([frame(kind, payload) for kind, payload in events], "application/vnd.amazon.eventstream")
        claude = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
                  "content": [{"type": "text", "text": "4 tonnes"}], "usage": {"input_tokens": 9, "output_tokens": 4}}
        if path.endswith("/invoke"):
            counts = [("x-amzn-bedrock-input-token-count", "9"), ("x-amzn-bedrock-output-token-count", "4")]
            return self.answer(claude, headers=ids + counts)
        metrics = {"inputTokenCount": 9, "outputTokenCount": 4, "invocationLatency": 1, "firstByteLatency": 1}
        events = [{"type": "message_start", "message": {**claude, "content": [], "stop_reason": None}},
                  {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "4 tonnes"}},
                  {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
                  {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}]
        chunks = [frame("chunk", {"bytes": base64.b64encode(json.dumps(e).encode()).decode()}) for e in events]
        self.pieces(chunks, "application/vnd.amazon.eventstream")

    def cohere(self, path, body):
        if self.headers.get("authorization") != "Bearer sandbox":
            return self.refuse("authorization is not the provider's")
        if path.endswith("/embed"):
            return self.answer({"id": "e", "embeddings": {"float": [[0.1]]}, "texts": ["x"], "response_type": "embeddings_by_type",
                                "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}}})
        if path.endswith("/rerank"):
            return self.answer({"id": "r", "results": [{"index": 0, "relevance_score": 0.9}],
                                "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}})
        if not body.get("stream"):
            return self.answer({"id": "c", "message": {"role": "assistant", "content": [{"type": "text", "text": "4 tonnes"}]},
                                "finish_reason": "COMPLETE", "usage": COHERE})
        events = [("message-start", {"id": "c", "delta": {"message": {"role": "assistant", "content": []}}}),
                  ("content-start", {"index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
                  ("content-delta", {"index": 0, "delta": {"message": {"content": {"text": "4 tonnes"}}}}),
                  ("content-end", {"index": 0}),
                  ("message-end", {"delta": {"finish_reason": "COMPLETE", "usage": COHERE}})]
        lines = [f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode() for kind, data in events]
        self.pieces(lines, "text/event-stream")

    def ollama(self, path, body):
        done = {"model": body["model"], "created_at": "2026-11-23T18:00:00Z", "done": True, "done_reason": "stop",
                "prompt_eval_count": 7, "eval_count": 5}
        if path.endswith("/embed"):
            return self.answer({"model": body["model"], "embeddings": [[0.1]], "prompt_eval_count": 7})
        part = (lambda text: {"message": {"role": "assistant", "content": text}}) if path.endswith("/chat") else (
            lambda text: {"response": text})
        if body.get("stream", True):
            lines = [{**done, "done": False, "done_reason": None, **part("4 ")}, {**done, **part("tonnes")}]
            return self.pieces([json.dumps(line).encode() + b"\n" for line in lines], "application/x-ndjson")
        self.answer({**done, **part("4 tonnes")})

    def azure(self, body):
        if self.headers.get("api-key") != "sandbox-azure" or self.headers.get("authorization"):
            return self.refuse("api-key is not the provider's")
        self.answer({"id": "a", "object": "chat.completion", "created": 1, "model": "gpt-4o-2024-11-20",
                     "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4 tonnes"}}],
                     "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}})


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
