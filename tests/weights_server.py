"""A server of weights on the loopback address, which can misbehave as servers do."""

import io
import re
import threading
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


def checkpoint(value=1.0, size=2, **more):
    """Return the content of a file of weights."""
    file = io.BytesIO()
    torch.save(dict(x=torch.full((size,), value)) | more, file)
    return file.getvalue()


def kept(cache):
    """Return the files in the cache that are no locks."""
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        server, path = self.server, self.path.partition("?")[0]
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.has_ranges else 0
        server.asked.append((self.command, self.path, start))
        if path in server.silent:
            server.closing.wait()
            return
        content = server.files.get(path)
        if content is None:
            self.send_response(404)
            # as the Hugging Face hub says it
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        refusal = server.refusal if start else None
        if start >= len(content) > 0:
            refusal = 416
        if refusal:
            self.send_response(refusal)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        kind = "text/html" if content.startswith(b"<") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        revision = path.partition("/resolve/")[2].partition("/")[0]
        self.send_header("X-Repo-Commit", sha256(revision.encode()).hexdigest()[:40])
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        end = server.cut_at.pop((path, start), len(content))
        self.wfile.write(content[start : (start + end) // 2])
        self.wfile.flush()
        server.half_sent.set()
        server.go_on.wait()
        self.wfile.write(content[(start + end) // 2 : end])
        self.close_connection = end < len(content)


class WeightsServer(ThreadingHTTPServer):
    """Server of the files in `files`, by path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {}
        # (method, path, first byte) of each request
        self.asked = []
        # byte before which the next answer of a path from a first byte is cut off
        self.cut_at = {}
        # paths that are never answered
        self.silent = set()
        # whether parts of files are sent, and the status by which they are refused for the moment
        self.has_ranges, self.refusal = True, None
        # set when half of an answer is sent; the other half follows when `go_on` is set
        self.half_sent, self.go_on, self.closing = (threading.Event() for _ in range(3))
        self.go_on.set()

    def add(self, path, content):
        """Serve `content` and return its address."""
        self.files[path] = content
        return self.url + path


@contextmanager
def serve():
    with WeightsServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
        thread.start()
        yield server
        server.closing.set()
        server.go_on.set()
        server.shutdown()
        thread.join()
