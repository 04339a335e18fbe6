# SPDX-License-Identifier: MIT OR Apache-2.0
"""control.py SEED COUNT: garbage for the control socket. No answer may take long."""

import json
import random
import socket
import sys

SEED, COUNT = map(int, sys.argv[1:])
chance = random.Random(SEED)
NAME = "org.appcluster.Cluster1."
METHODS = ["", "GetStatus", "Scale", "Stop", "Explode", "getstatus", "Reload\0", "GetStatus.", "."]
VALUES = [None, 0, -1, 1 << 70, 1e308, "x", [], {}, True, "\u0000", {"workers": -1}, {"by": "many"}]


def connect():
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(20)
    line.connect("/run/app-cluster/app-cluster/control")
    return line


def message():
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 4000))
    if kind == 1:
        return b"{" * chance.randrange(1, 60000) + b"\0"
    if kind == 2:
        return b"x" * chance.randrange(65000, 200000)
    text = {"method": NAME + chance.choice(METHODS), "parameters": chance.choice(VALUES)}
    text[chance.choice(["more", "oneway", "upgrade", "method"])] = chance.choice(VALUES)
    # What would be obeyed is no garbage.
    if text["method"] in (NAME + "Stop", NAME + "Scale") and not text["parameters"]:
        text["parameters"] = 7
    whole = json.dumps(text).encode() + b"\0"
    return whole[: chance.randrange(1, len(whole))] if kind == 3 else whole


refused = 0
for number in range(COUNT):
    with connect() as line:
        try:
            for _ in range(chance.randrange(1, 4)):
                line.sendall(message())
            if chance.randrange(2):
                line.shutdown(socket.SHUT_WR)
                while True:
                    answer = line.recv(65536)
                    refused += b'"error"' in answer
                    if not answer:
                        break
        except (BrokenPipeError, ConnectionResetError):
            pass
print(refused)
