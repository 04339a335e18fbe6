# SPDX-License-Identifier: MIT OR Apache-2.0
"""killer.py SLOT TIMES: as soon as the slot has a ready worker it is killed, so often."""

import json
import os
import signal
import socket
import sys
import time

slot, times = int(sys.argv[1]), int(sys.argv[2])
control = socket.socket(socket.AF_UNIX)
control.connect("/run/app-cluster/app-cluster/control")
reader = control.makefile("rb")


def worker():
    control.sendall(b'{"method":"org.appcluster.Cluster1.GetStatus"}\0')
    text = b""
    while not text.endswith(b"\0"):
        text += reader.read1(65536)
    found = json.loads(text[:-1])["parameters"]["status"]["slots"][slot]
    return found["pid"] if found["state"] == "ready" else None


killed = set()
deadline = time.monotonic() + 240
while len(killed) < times and time.monotonic() < deadline:
    pid = worker()
    if pid and pid not in killed:
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    time.sleep(0.002)
sys.exit(len(killed) != times)
