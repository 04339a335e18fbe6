#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The app of releases.rs in Python: the inherited socket in an epoll loop. What is
wrong with a release is in fault.py:

    act, at   called so many seconds after it is ready, between two requests
    silent    it never listens
    health    the status of GET /health

GET /health is also answered at an address of each process: \0shop.PID (unix(7)).
"""

import http
import json
import os
import select
import signal
import socket
import time

import fault

DATABASE = os.environ["DATABASE_URL"]
WHO = {
    "pid": os.getpid(),
    "slot": int(os.environ["APP_CLUSTER_SLOT"]),
    "generation": int(os.environ["APP_CLUSTER_GENERATION"]),
}
BODY = json.dumps(WHO).encode()


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def length(head, rest):
    """How many bytes of rest belong to the request; None: not all are there."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line.split(b":")[1])
            return size if len(rest) >= size else None
        if line.startswith(b"transfer-encoding:"):
            end = rest.find(b"0\r\n\r\n")
            return end + 5 if end >= 0 else None
    return 0


class Server:
    def __init__(self, listener):
        self.listener = listener
        self.own = socket.socket(socket.AF_UNIX)
        self.own.bind(f"\0shop.{os.getpid()}")
        self.own.listen()
        self.poll = select.epoll()
        for one in (self.listener, self.own):
            one.setblocking(False)
            self.poll.register(one, select.EPOLLIN)
        self.clients = {}
        self.leaving = False
        signal.signal(signal.SIGTERM, self.leave)

    def leave(self, *_):
        self.leaving = True

    def accept(self, listener):
        try:
            client, _ = listener.accept()
        except OSError:  # another was faster
            return
        client.setblocking(True)
        client.settimeout(10)
        self.clients[client.fileno()] = [client, b""]
        self.poll.register(client, select.EPOLLIN)

    def close(self, number):
        client, _ = self.clients.pop(number)
        self.poll.unregister(client)
        client.close()

    def read(self, number):
        client, bytes_so_far = self.clients[number]
        try:
            more = client.recv(65536)
        except OSError:
            more = b""
        if not more:
            self.close(number)
            return
        bytes_so_far += more
        while b"\r\n\r\n" in bytes_so_far:
            head, rest = bytes_so_far.split(b"\r\n\r\n", 1)
            size = length(head, rest)
            if size is None:
                break
            bytes_so_far = rest[size:]
            if self.answer(client, head):
                self.close(number)
                return
        self.clients[number][1] = bytes_so_far

    def answer(self, client, head):
        """Whether this was the last one of its connection."""
        last = self.leaving or b"connection: close" in head.lower()
        health = head.startswith(b"GET /health ")
        status = getattr(fault, "health", 200) if health else 200
        reason = http.HTTPStatus(status).phrase
        start = f"HTTP/1.1 {status} {reason}\r\nContent-Length: {len(BODY)}\r\n"
        start += "Connection: close\r\n\r\n" if last else "\r\n"
        client.sendall(start.encode() + BODY)
        return last

    def run(self):
        begun = time.monotonic()
        act, at = getattr(fault, "act", None), getattr(fault, "at", 0)
        while not self.leaving or self.clients:
            if self.leaving and self.listener:
                self.poll.unregister(self.listener)
                self.listener = None
            for number, _ in self.poll.poll(0.02):
                if self.listener and number == self.listener.fileno():
                    self.accept(self.listener)
                elif number == self.own.fileno():
                    self.accept(self.own)
                else:
                    self.read(number)
            if "WATCHDOG_USEC" in os.environ:
                notify("WATCHDOG=1")
            # Nobody can answer what a process has accepted when it dies: so it does
            # that between two requests, and nothing may be lost.
            if act and not self.clients and time.monotonic() - begun >= at:
                act()


if getattr(fault, "silent", False):
    time.sleep(1000)
server = Server(socket.socket(fileno=3))
notify("READY=1")
server.run()
