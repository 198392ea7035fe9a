"""One Sensu server that handles thousands of events: an interpreter that has loaded the scripts already forks for each.

Each event still has a process of its own, with its own connections, that runs the script's whole main() on its own
stdin and ends by itself, or by SIGKILL. Only loading Python and the modules again, 40 ms each time, is saved.

stdin takes a JSON line for each run:  {"script": "handler_jenkins", "argv": […], "event": text, "kill_after": seconds},
or {"flush": true}, which is answered once nothing runs any more. stdout tells {"run": the line, "status": exit status,
or -9 where it was killed, "output": text}.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time

HANDLERS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "handlers")
# What the scripts load once they need it.
LATER = ("sensu_lxc_handlers.asking", "sensu_lxc_handlers.jenkins", "sensu_lxc_handlers.ledger_redis",
         "sensu_lxc_handlers.placing", "sensu_lxc_handlers.sensu_api", "requests", "redis", "hashlib")  # fmt: skip


class Server:
    """Runs scripts, at most `width` of them at once."""

    def __init__(self, width):
        self.width = width
        self.running = {}  # pid: (run, the end of a pipe to read its output from, when to kill it or None)
        # SIGALRM is a process's own: those that are forked have none pending.
        signal.signal(signal.SIGALRM, self.kill_due)

    def kill_due(self, *_):
        now = time.monotonic()
        due = [when for _, _, when in self.running.values() if when is not None]
        for pid, (run, output, when) in list(self.running.items()):
            if when is not None and when <= now:
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still this one's
                self.running[pid] = run, output, None
        left = [when - now for when in due if when > now]
        signal.setitimer(signal.ITIMER_REAL, max(0.0005, min(left)) if left else 0)

    def start(self, run):
        while len(self.running) >= self.width:
            self.reap()
        stdin, event = os.pipe()
        os.write(event, run.get("event", "").encode())  # it has room for 64 KiB
        os.close(event)
        output, stdout = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.become(run, stdin, stdout)
        os.close(stdin)
        os.close(stdout)
        kill_after = run.get("kill_after")
        self.running[pid] = run, output, None if kill_after is None else time.monotonic() + kill_after
        if kill_after is not None:
            self.kill_due()

    def become(self, run, stdin, stdout):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(stdout, 2)
        os.closerange(3, 256)
        sys.argv = [run["script"] + ".py", *run["argv"]]
        try:
            importlib.import_module(run["script"]).main()
        finally:
            os._exit(99)

    def reap(self):
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        run, output, _ = self.running.pop(ended.si_pid)  # before its number may be another process's
        _, status = os.waitpid(ended.si_pid, 0)
        with os.fdopen(output, "rb") as file:
            said = file.read().decode()
        print(json.dumps({"run": run, "status": os.waitstatus_to_exitcode(status), "output": said}), flush=True)


def main():
    sys.path.insert(0, HANDLERS)
    for name in ("handler_jenkins", "reconcile_autoscale", *LATER):
        importlib.import_module(name)
    gc.freeze()  # or each child would copy all of it at its first collection
    server = Server(int(sys.argv[1]))
    for line in sys.stdin:
        run = json.loads(line)
        if "flush" in run:
            while server.running:
                server.reap()
            print(json.dumps({"flushed": True}), flush=True)
        else:
            server.start(run)


if __name__ == "__main__":
    main()
