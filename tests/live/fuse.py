"""A filesystem that stops answering, as sshfs and GlusterFS do when the network is gone."""

import contextlib
import glob
import subprocess
import sys
from pathlib import Path

# A FUSE filesystem of 1000 blocks, 600 free, 500 for users. Once the file FLAG is there it takes each request and never
# answers: whoever asks is then where no signal reaches it, as with sshfs or GlusterFS when the network is gone.
FUSE = r"""
import ctypes, os, struct, sys
point, flag = sys.argv[1:]
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if ctypes.CDLL(None).mount(b"deadfs", point.encode(), b"fuse.deadfs", 0, options):
    sys.exit("mount failed")
print("ready", flush=True)
directory = struct.pack("<QII6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
answers = {26: struct.pack("<IIIIHHIIHHI", 7, 31, 0x20000, 0, 12, 12, 0x20000, 1, 0, 0, 0) + bytes(24), 3: directory,
           17: struct.pack("<QQQQQIIII", 1000, 600, 500, 100, 40, 4096, 255, 4096, 0) + bytes(24)}
while True:
    request = os.read(fuse, 1 << 20)
    _, kind, unique = struct.unpack_from("<IIQ", request)
    if kind in (2, 36, 42) or os.path.exists(flag):
        continue
    answer = answers.get(kind, b"")
    os.write(fuse, struct.pack("<IiQ", 16 + len(answer), 0 if kind in answers else -2, unique) + answer)
"""


class Fuse:
    """One such filesystem."""

    def __init__(self, folder: Path) -> None:
        self.point, self.flag = folder / "fuse", folder / "mute"
        self.point.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", FUSE, str(self.point), str(self.flag)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.point.stat()  # answered, so that it was asked for its version before it falls silent

    def close(self) -> None:
        # Its end fails all requests, so that whoever waits for one goes on.
        self.process.kill()
        self.process.wait()
        subprocess.run(["umount", "-l", str(self.point)], capture_output=True, timeout=10)


def stuck(word: str) -> int:
    """How many processes with that word in their command lines wait where no signal reaches them."""
    count = 0
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            is_there = word in Path(path).with_name("cmdline").read_text()
            if is_there and Path(path).read_text().rpartition(")")[2].split()[0] == "D":
                count += 1
    return count
