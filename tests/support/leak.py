# SPDX-License-Identifier: MIT OR Apache-2.0
"""A worker that forgets nothing. Usage: leak.py PROCESSES BASE LEAK

So many MiB are filled before so many processes are forked, which share them and serve; with
none the first one serves. Of each request so many KiB stay.
"""

import json
import os
import select
import signal
import socket
import sys

processes, base, leak = map(int, sys.argv[1:])
shared = b"x" * (base << 20)
listener = socket.socket(fileno=3)
kept, children = [], []
for _ in range(processes):
    child = os.fork()
    if child == 0:
        children = []
        break
    children.append(child)


def end(*_):
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child in children:
        os.waitpid(child, 0)
    os._exit(0)


if children:
    signal.signal(signal.SIGTERM, end)

with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
    line.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
if children:
    while True:
        signal.pause()

awake, bell = socket.socketpair()
for end in (awake, bell):
    end.setblocking(False)
signal.set_wakeup_fd(bell.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
poll.register(awake, select.EPOLLIN)
listener.setblocking(False)
while awake.fileno() not in [fd for fd, _ in poll.poll()]:
    try:
        client, _ = listener.accept()
    except OSError:
        continue
    with client:
        client.setblocking(True)
        while b"\r\n\r\n" not in client.recv(65536):
            pass
        kept.append(b"y" * (leak << 10))
        body = json.dumps({"pid": os.getpid(), "slot": int(os.environ["APP_CLUSTER_SLOT"])})
        head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.sendall((head + body).encode())
