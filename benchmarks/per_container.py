#!/usr/bin/env python3
"""--per-container against a bare loop: results per second to one real Sensu Go agent, interleaved in one run.

Needs root and a Sensu Go on PATH. The bare loop posts the very bodies over one kept-alive http.client connection and
does nothing else; the sweep is the whole script, its start and its look at 1,000 made containers included.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench import ENVIRONMENT, PYTHON, made_tree  # noqa: E402
from tests.live.sensu_go import sensu_go, why_no_sensu_go  # noqa: E402

COUNT, ROUNDS = 1000, 5
SCRIPT = str(ROOT / "plugins/check_container_memory.py")


def bare(port: int, outputs: dict[str, str]) -> float:
    """Seconds for posting each output."""
    bodies = [
        json.dumps(
            {
                "check": {
                    "metadata": {"name": "check_bare"}, "proxy_entity_name": name, "status": 0, "output": output,
                    "interval": 60, "handlers": [], "ttl": 180,
                }
            }
        )
        for name, output in outputs.items()
    ]  # fmt: skip
    began = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port)
    for body in bodies:
        connection.request("POST", "/events", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        if response.status != 202:
            raise SystemExit(f"the agent answered {response.status}: a figure of a failure is none")
    connection.close()
    return time.perf_counter() - began


def sweep(port: int, root: Path) -> float:
    """Seconds for a whole run of the script."""
    argv = [PYTHON, SCRIPT, "--root", str(root), "--per-container", "--agent", f"http://127.0.0.1:{port}"]
    argv += ["--timeout", "60s", "--state-dir", str(root / "state")]
    began = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    elapsed = time.perf_counter() - began
    if done.returncode or f"{COUNT} containers reported" not in done.stdout:
        raise SystemExit(f"the sweep ended with {done.returncode}: {done.stdout[:300]}")
    return elapsed


def main() -> None:
    """Print both rates."""
    reason = why_no_sensu_go()
    if reason:
        raise SystemExit(f"left out: this {reason}")
    with tempfile.TemporaryDirectory() as folder, sensu_go(folder) as lab, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        lab.start_backend()
        lab.start_agent(api_port=port)
        root = Path(folder, "host")
        made_tree(root, COUNT)
        argv = [PYTHON, SCRIPT, "--root", str(root)]
        one = subprocess.run([*argv, "-n", "web0001"], capture_output=True, text=True, env=ENVIRONMENT, check=False)
        outputs = {f"web{number:04}": one.stdout for number in range(COUNT)}
        bare(port, outputs)
        sweep(port, root)
        taken: dict[str, list[float]] = {"bare": [], "sweep": []}
        for number in range(ROUNDS):
            for name in ("bare", "sweep") if number % 2 else ("sweep", "bare"):
                taken[name].append(bare(port, outputs) if name == "bare" else sweep(port, root))
                time.sleep(1)  # the backend stores what it was sent
        plain, ours = (COUNT / statistics.median(taken[name]) for name in ("bare", "sweep"))
        print(
            f"{COUNT} results to a real Sensu Go agent, medians of {ROUNDS} interleaved rounds on {os.cpu_count()} CPUs"
        )
        print(f"| {'':52} | results/s |      % |\n|{'-' * 54}|{'-' * 11}|{'-' * 8}|")
        print(f"| {'bare loop of kept-alive POSTs (http.client)':52} | {plain:9.0f} | {100:6.1f} |")
        print(f"| {'--per-container, the whole run':52} | {ours:9.0f} | {100 * ours / plain:6.1f} |")


if __name__ == "__main__":
    main()
