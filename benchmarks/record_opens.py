"""Run a script and write down each file that it opens below some directories, and each socket that it asks: @ADDRESS.

record_opens.py OUT DIRECTORY:DIRECTORY SCRIPT [ARGUMENT …]
"""

from __future__ import annotations

import os
import runpy
import sys

out, below, script = sys.argv[1:4]
sys.argv = sys.argv[3:]
sys.path[0] = os.path.dirname(script)
opened: list[str] = []
leave, started = os._exit, os.getpid()


def note(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and isinstance(args[0], str) and args[0].startswith(tuple(below.split(":"))):
        opened.append(args[0])
    elif event == "socket.connect" and isinstance(args[1], bytes) and args[1].startswith(b"\0"):
        opened.append("@" + args[1][1:].decode())


def write_and_leave(status: int) -> None:
    if os.getpid() != started:  # a check looks in a process of its own, which knows what was opened before as well
        with open(out, "w", encoding="utf-8") as target:
            target.write("\n".join(opened))
    leave(status)


sys.addaudithook(note)
os._exit = write_and_leave  # type: ignore[assignment]
runpy.run_path(script, run_name="__main__")
