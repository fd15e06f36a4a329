#!/usr/bin/env python3
"""A service that takes events over HTTP: keeps every request that came whole, and answers as it is told.

    http_service.py FOLDER PORT [CERTIFICATE KEY]

A request to /NAME/... is kept in FOLDER/NAME as 000001.json (method, path, headers, the client's port) and 000001.body,
in the order of their answers. What a file in FOLDER/NAME says comes first, and then nothing is kept:

    answer    the bytes that are sent back instead, before the connection is closed
    early     the same, but before the body is read
    poison    a body that holds these bytes is answered 400
    echo      every request is answered with this status, and with what the service has read of its head
"""

import gzip
import html
import json
import signal
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

# A shell starts what runs in its background with this signal ignored.
signal.signal(signal.SIGINT, signal.SIG_DFL)
folder, port = Path(sys.argv[1]), int(sys.argv[2])
lock = threading.Lock()


def told(name, what):
    try:
        return (folder / name / what).read_bytes()
    except FileNotFoundError:
        return None


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        name = self.path.split("?")[0].split("/")[1]
        early = told(name, "early")
        if early is not None:
            self.close_with(early)
            return
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        answer, poison = told(name, "answer"), told(name, "poison")
        if answer is not None:
            self.close_with(answer)
            return
        echo = told(name, "echo")
        if echo is not None:
            head = {"target": self.path, "decoded": unquote(self.path), "html": html.escape(unquote(self.path))}
            head["query"] = parse_qs(self.path.partition("?")[2])
            head["headers"] = dict(self.headers)
            self.answer(int(echo), json.dumps(head).encode())
            return
        plain = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
        if poison is not None and poison in plain:
            self.answer(400, b"poisoned")
            return
        self.keep(name, body)
        self.answer(200, b"{}")

    def keep(self, name, body):
        head = {
            "method": self.command,
            "path": self.path,
            "headers": {key.lower(): value for key, value in self.headers.items()},
            "client_port": self.client_address[1],
        }
        with lock:
            (folder / name).mkdir(exist_ok=True)
            number = len(list((folder / name).glob("*.json"))) + 1
            (folder / name / f"{number:06}.body").write_bytes(body)
            # Whoever looks sees the head last.
            part = folder / name / f"{number:06}.part"
            part.write_text(json.dumps(head))
            part.rename(part.with_suffix(".json"))

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def close_with(self, answer):
        self.wfile.write(answer)
        self.close_connection = True

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that went away is no news


server = Server(("127.0.0.1", port), Service)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    # Each connection's handshake is its own thread's: one that never ends holds up nobody.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
