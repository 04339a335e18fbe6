# SPDX-License-Identifier: MIT OR Apache-2.0
"""Garbage for notify sockets, from inside a worker: its own socket and all others'.

What is sent follows from the seed in /srv/app/seed ("SEED COUNT").
"""

import array
import os
import random
import socket

SEED, COUNT = map(int, open("/srv/app/seed").read().split())
chance = random.Random(SEED)
own = os.environ["NOTIFY_SOCKET"]
folder = os.path.dirname(own)
others = [f"{folder}/{name}" for name in os.listdir(folder) if f"{folder}/{name}" != own]
WORDS = [b"READY", b"STATUS", b"STOPPING", b"EXTEND_TIMEOUT_USEC", b"WATCHDOG", b"MAINPID", b"FDSTORE"]
VALUES = [b"", b"1", b"0", b"-1", b"2", b"18446744073709551616", b"99999999999999999999999", b"\xff\xfe", b"\x1b[2J\r"]


def body():
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(300))
    if kind == 1:
        return chance.randbytes(chance.randrange(60000, 150000))
    if kind == 2:
        return b"\n" * chance.randrange(5000)
    lines = []
    for _ in range(chance.randrange(1, 20)):
        word, value = chance.choice(WORDS), chance.choice(VALUES)
        if (word, value) != (b"STOPPING", b"1"):  # to itself that is no garbage
            lines.append(word + chance.choice([b"=", b"", b"=="]) + value)
    return b"\n".join(lines)


line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
line.settimeout(20)
spare = os.open("/dev/null", os.O_RDONLY)
for number in range(COUNT):
    fds = array.array("i", [spare] * chance.choice([0, 0, 0, 1, 64, 253]))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
    target = chance.choice([own, own, *others])
    line.sendmsg([body()], rights, 0, target)
# What would hurt most if it were believed: from one worker about another.
for other in others:
    line.sendto(b"STOPPING=1\nREADY=1\nSTATUS=stolen", other)
os.close(spare)
line.close()
