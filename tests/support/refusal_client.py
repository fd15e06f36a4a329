"""Sends POSTs whose bodies are refused, and reports what the client saw of each answer.

Reads a JSON list of jobs from standard input: {"client", "url", "headers", "bytes", "chunked", "rate"}, where `rate` is in
bytes per second and 0 means full speed. Prints a JSON list with one entry per job: the status as a number, or the error as
text. The first argument is the number of jobs that run at the same time.
"""

import asyncio
import concurrent.futures
import http.client
import json
import sys
import time
import urllib.parse

import aiohttp
import requests

PIECE = b"[" + b" " * (64 * 1024 - 1)
TIMEOUT_SECONDS = 120


class Pace:
    """Says how long to wait before the next piece, so that the average rate is kept."""

    def __init__(self, rate):
        self.rate, self.started, self.sent = rate, time.monotonic(), 0

    def delay(self, count):
        self.sent += count
        return max(0, self.started + self.sent / self.rate - time.monotonic()) if self.rate else 0


def pieces(job):
    pace, left = Pace(job["rate"]), job["bytes"]
    while left:
        piece = PIECE[:left]
        yield piece
        left -= len(piece)
        time.sleep(pace.delay(len(piece)))


async def async_pieces(job):
    pace, left = Pace(job["rate"]), job["bytes"]
    while left:
        piece = PIECE[:left]
        yield piece
        left -= len(piece)
        await asyncio.sleep(pace.delay(len(piece)))


class PacedFile:
    """A body of known length, read in pieces."""

    def __init__(self, job):
        self.pace, self.left, self.length = Pace(job["rate"]), job["bytes"], job["bytes"]

    def __len__(self):
        return self.length

    def read(self, size=-1):
        piece = PIECE[: self.left if size < 0 else min(size, self.left)]
        self.left -= len(piece)
        time.sleep(self.pace.delay(len(piece)))
        return piece


def with_http_client(job):
    url = urllib.parse.urlsplit(job["url"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_SECONDS)
    headers = dict(job["headers"])
    if job["chunked"]:
        headers["Transfer-Encoding"] = "chunked"
        connection.request("POST", url.path, body=pieces(job), headers=headers, encode_chunked=True)
    else:
        headers["Content-Length"] = str(job["bytes"])
        body = pieces(job) if job["rate"] else PIECE * (job["bytes"] // len(PIECE))
        connection.request("POST", url.path, body=body, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def with_requests(job):
    body = pieces(job) if job["chunked"] else PacedFile(job)
    return requests.post(job["url"], data=body, headers=job["headers"], timeout=TIMEOUT_SECONDS).status_code


async def with_aiohttp(job):
    headers = dict(job["headers"])
    if not job["chunked"]:
        headers["Content-Length"] = str(job["bytes"])
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.post(job["url"], data=async_pieces(job), headers=headers) as response:
            await response.read()
            return response.status


CLIENTS = {
    "http.client": with_http_client,
    "requests": with_requests,
    "aiohttp": lambda job: asyncio.run(with_aiohttp(job)),
}


def outcome(job):
    try:
        return CLIENTS[job["client"]](job)
    except Exception as error:  # whatever the client library raises is the outcome
        return f"{type(error).__name__}: {error}"


with concurrent.futures.ThreadPoolExecutor(int(sys.argv[1])) as executor:
    print(json.dumps(list(executor.map(outcome, json.load(sys.stdin)))))
