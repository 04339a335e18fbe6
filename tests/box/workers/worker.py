# SPDX-License-Identifier: MIT OR Apache-2.0
"""A worker that misbehaves on request. Usage: worker.py [WORD...]

Serves HTTP on its inherited socket like the built-in worker does. At start:

    talk        says who it is and has a child that does the same
    crash       dies of an exception
    stubborn    ignores SIGTERM
    family      has children that ignore SIGTERM, each the leader of a session
    flood       has a child that writes as much as it can

While it serves:

    /lines?N    writes N numbered lines
    /last       writes a line without an end and exits with status 3
    /shutdown   calls shutdown(2) on the listening socket
    /run/FILE   runs a Python file in this very process
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys

SLOT = os.environ["APP_CLUSTER_SLOT"]
GENERATION = os.environ["APP_CLUSTER_GENERATION"]
WHO = f"slot {SLOT} generation {GENERATION}"
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def say(text):
    print(text, flush=True)


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def begin(words):
    if "talk" in words:
        say(f"main of {WHO}")
        # journald looks up whose line it is when it reads it: of a writer that
        # has ended by then it knows the unit, but not the worker.
        subprocess.Popen(["sh", "-c", f"echo 'child of {WHO}'; exec sleep 3600"])
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "family" in words:
        for _ in range(2):
            # A grandchild whose parent is gone, in a session of its own.
            script = f"setsid {sys.executable} -c '{CHILD}' & setsid {sys.executable} -c '{CHILD}' &"
            subprocess.run(["sh", "-c", script], check=True)
    if "flood" in words:
        subprocess.Popen(["yes", f"flood of {WHO}"])
    if "crash" in words:
        raise RuntimeError(f"no way, {WHO}")


def act(path):
    if path.startswith("/lines?"):
        for number in range(int(path[7:])):
            say(f"line {number} of {os.getpid()}")
    elif path == "/last":
        sys.stdout.write(f"last words of {os.getpid()}")
        sys.stdout.flush()
        os._exit(3)
    elif path == "/shutdown":
        try:
            LISTENER.shutdown(socket.SHUT_RDWR)
        except OSError:  # it does not listen just now
            pass
    elif path.startswith("/run/"):
        with open(path[4:]) as file:
            exec(compile(file.read(), path, "exec"), {"__name__": "guest"})


def answer(connection):
    connection.settimeout(10)
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(65536)
        if not more:
            return
        head += more
    act(head.split(b" ")[1].decode())
    who = {"pid": os.getpid(), "slot": int(SLOT), "generation": int(GENERATION)}
    body = json.dumps(who).encode()
    start = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(start.encode() + body)


def serve():
    poll = select.epoll()
    poll.register(LISTENER, select.EPOLLIN)
    while True:
        poll.poll()
        try:
            connection, _ = LISTENER.accept()
        except OSError:  # another was faster, or somebody has shut it down
            continue
        with connection:
            try:
                answer(connection)
            except OSError as error:
                say(f"a client is lost: {error}")


LISTENER = socket.socket(fileno=3)
LISTENER.setblocking(False)
begin(sys.argv[1:])
notify("READY=1")
serve()
