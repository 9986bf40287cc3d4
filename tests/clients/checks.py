"""What both Python scripts share: a list of checks, how they are counted, and the call's own receipt."""

import json
import os
import sys
import time
import traceback
import urllib.request
import uuid

BASE = os.environ["WB_GATEWAY"]
APP_KEY = os.environ["WB_APP_KEY"]
BROKE_KEY = os.environ["WB_BROKE_KEY"]
BAD_KEY = os.environ["WB_BAD_KEY"]

_checks = []


def check(function):
    """Registers a check; its name is its sentence."""
    _checks.append(function)
    return function


def run_all(prefix):
    """Runs every check, prints a line for each, and exits 1 if one failed."""
    failed = 0
    for function in _checks:
        name = f"{prefix}: {function.__name__.replace('_', ' ')}"
        try:
            function()
            print(f"ok {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}", flush=True)
            traceback.print_exc(limit=4, file=sys.stdout)
    sys.exit(1 if failed else 0)


class Count:
    """Counts the requests an SDK sends, retries included."""

    def __init__(self):
        self.requests = 0

    def hook(self, _request):
        self.requests += 1


def receipt(call_id, key=APP_KEY):
    """The receipt of one's own call, as soon as it is settled."""
    request = urllib.request.Request(f"{BASE}/wb/v1/calls/{call_id}", headers={"authorization": f"Bearer {key}"})
    for _ in range(50):
        with urllib.request.urlopen(request) as answer:
            call = json.load(answer)
        call = call.get("call", call)
        if call["outcome"] != "running":
            return call
        time.sleep(0.1)
    raise AssertionError(f"call {call_id} was never settled")


def new_run():
    return f"sdk-{uuid.uuid4().hex[:16]}"


def equal(found, expected, what=""):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"
