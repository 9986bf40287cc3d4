"""Starts a sandbox and the gateway in front of it, runs the SDK scripts against them, and adds up.

Usage: run.py BINARY PYTHON NODE_FOLDER: the binary under test, a Python with requirements.txt installed, and a folder with
node_modules of package.json. The last line is `N passed, N failed`.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def new_key(binary):
    printed = subprocess.run([binary, "key", "generate", "--environment", "prod"], check=True, capture_output=True, text=True)
    return next(word for word in printed.stdout.split() if word.startswith("wbk_"))


def wait_until_ready(url, process, log):
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"not ready: {url}\n{Path(log).read_text()[-4000:]}")


def main():
    binary, python, node_folder = sys.argv[1:4]
    folder = Path(tempfile.mkdtemp(prefix="weighbridge-clients-"))
    processes = []

    def start(name, *arguments):
        log = folder / f"{name}.log"
        with open(log, "w") as out:
            process = subprocess.Popen([binary, *arguments], stdout=out, stderr=subprocess.STDOUT)
        processes.append(process)
        return process, log

    try:
        sandbox, gateway, web, vendors = (f"127.0.0.1:{free_port()}" for _ in range(4))
        keys = {"APP_KEY": new_key(binary), "BROKE_KEY": new_key(binary), "BAD_KEY": new_key(binary)}
        text = (HERE / "weighbridge.toml").read_text()
        values = {"GATEWAY": gateway, "WEB": web, "DATA": str(folder / "data"), "OPERATOR": secrets.token_hex(20),
                  "SANDBOX": f"http://{sandbox}", "VENDORS": f"http://{vendors}", **keys}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        config = folder / "weighbridge.toml"
        config.write_text(text)
        start("sandbox", "demo", "--sandbox-only", "--fast", "--listen", sandbox)
        processes.append(subprocess.Popen([python, str(HERE / "vendors.py"), vendors.rsplit(":", 1)[1]]))
        process, log = start("serve", "serve", "--config", str(config))
        wait_until_ready(f"http://{gateway}/readyz", process, log)
        environment = {**os.environ, "WB_GATEWAY": f"http://{gateway}", "PYTHONPATH": str(HERE),
                       **{f"WB_{name}": value for name, value in keys.items()}}
        # Settings of whoever runs this must not lead the SDKs elsewhere.
        for name in list(environment):
            if name.startswith(("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "AWS_", "COHERE_", "CO_API", "OLLAMA_", "AZURE_")) or name.lower().endswith("_proxy"):
                del environment[name]
        passed = failed = 0
        # Node finds packages from where a script lies.
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, node_folder)
        for command in ([python, str(HERE / "transport.py")], [python, str(HERE / "openai_sdk.py")],
                        [python, str(HERE / "anthropic_sdk.py")], [python, str(HERE / "native_sdks.py")], ["node", str(Path(node_folder) / "openai_sdk.mjs")],
                        ["node", str(Path(node_folder) / "anthropic_sdk.mjs")]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            lines = done.stdout.splitlines()
            good, bad = (sum(line.startswith(word) for line in lines) for word in ("ok ", "FAILED "))
            print(done.stdout, end="")
            if done.returncode != 0 and bad == 0:
                bad = 1
                print(f"FAILED {command[-1]} ended with {done.returncode}\n{done.stderr[-3000:]}")
            passed, failed = passed + good, failed + bad
        if failed:
            print(f"the gateway's last words:\n{log.read_text()[-3000:]}")
        print(f"{passed} passed, {failed} failed", flush=True)
        return 1 if failed or not passed else 0
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
