"""Servers on this machine that count what is fetched: plain HTTP with ranges, and S3."""

import re
import threading
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Log:
    """Requests so far, as (method, path, range, bytes sent, status)."""

    def __init__(self):
        self.entries = []
        self._lock = threading.Lock()

    def add(self, *entry):
        with self._lock:
            self.entries.append(entry)

    def clear(self):
        with self._lock:
            self.entries.clear()

    @property
    def requests(self):
        return len(self.entries)

    @property
    def bytes(self):
        return sum(entry[3] for entry in self.entries)


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        server, wanted = self.server, self.headers.get("Range")
        name = self.path.partition("?")[0]
        if body and server.failures:
            return self._send(server.failures.pop(), b"", {}, wanted, body=body)
        path = server.folder / name.lstrip("/")
        if not path.is_file():
            return self._send(404, b"", {}, wanted, body=body)
        stored = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if match is None:
            return self._send(200, stored, {"Accept-Ranges": "bytes"}, wanted, body=body)
        first, last = int(match[1]), min(int(match[2] or len(stored) - 1), len(stored) - 1)
        about = {"Content-Range": f"bytes {first}-{last}/{len(stored)}"}
        return self._send(206, stored[first : last + 1], about, wanted, body=body)

    def _send(self, status, content, headers, wanted, *, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        sent = len(content) if body else 0
        self.server.log.add(self.command, self.path, wanted, sent, status)
        if body:
            self.wfile.write(content)


@contextmanager
def http_server(folder):
    """Serve a folder; yields (address, log, failures): statuses to answer GETs with, last first."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        server.folder, server.log, server.failures = folder, Log(), []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.log, server.failures
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def s3_server(files):
    """Serve ``files`` {bucket/key: bytes} by moto's S3; yields (host:port, log)."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_, **__):
            pass

    log, app = Log(), DomainDispatcherApplication(create_backend_app)

    def counting(environ, start_response):
        asked = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE")

        def start(status, headers, *rest):
            length = int(dict(headers).get("Content-Length", 0)) if asked[0] == "GET" else 0
            query = environ.get("QUERY_STRING")
            log.add(asked[0], f"{asked[1]}?{query}", asked[2], length, int(status[:3]))
            return start_response(status, headers, *rest)

        return app(environ, start)

    server = make_server("127.0.0.1", 0, counting, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        for name, content in files.items():
            for path, body in ((name.partition("/")[0], b""), (name, content)):
                request = urllib.request.Request(f"http://{address}/{path}", body, method="PUT")
                key = "AWS4-HMAC-SHA256 Credential=x/x/us-east-1/s3/x"
                request.add_header("Authorization", key)
                request.add_header("Content-Type", "application/octet-stream")
                urllib.request.urlopen(request).close()
        log.clear()
        yield address, log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
