"""A server on loopback that plays the Hugging Face hub to a real huggingface_hub client."""

import base64
import contextlib
import hashlib
import http.server
import json
import socket
import threading
from email.utils import formatdate


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files`: {(repo, revision, file name): bytes}; what is uploaded is added, as "main".

    Attributes:
        url: for HF_ENDPOINT.
        requests: [(method, path, Range header)] of files, as they came.
        commits: {repo: what its branches stand for}, which may be changed.
        cut: if set, the next body is cut off after so many bytes.
    """

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.requests = []
        self.commits = {repo: hashlib.sha1(repo.encode()).hexdigest() for repo, *_ in files}
        self.cut = None
        self.connections = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()
        for connection in self.connections:  # a client may keep it, and would go on being answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps(self._posted(self.path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _posted(self, path, body):
        """What `create_repo`, `upload_file` and `upload_folder` of the client ask for."""
        hub = self.server
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.commits.setdefault(repo, hashlib.sha1(repo.encode()).hexdigest())
            return {"url": f"{hub.url}/{repo}"}
        if path == "/api/validate-yaml":  # a model card's first lines
            return {"errors": [], "warnings": []}
        repo, _, action = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if action == "preupload":  # each file is to come with the commit, whatever its size
            paths = [file["path"] for file in json.loads(body)["files"]]
            return {
                "files": [
                    {"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths
                ]
            }
        assert action == "commit", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                hub.files[repo, "main", line["value"]["path"]] = content
        hub.commits[repo] = commit = hashlib.sha1(body).hexdigest()
        return {"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit}

    def _answer(self, body):
        hub = self.server
        if "/resolve/" in self.path:  # the client asks for other things, too
            hub.requests.append((self.command, self.path, self.headers.get("Range")))
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        repos = {key[0] for key in hub.files} | {*hub.commits}
        data = hub.files.get((repo, revision, file))
        if data is None:
            known = repo in repos
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", hub.commits.get(repo, "0" * 40))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        part = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", revision if len(revision) == 40 else hub.commits[repo])
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Date", formatdate(usegmt=True))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return
        if hub.cut is not None:
            part, hub.cut = part[: hub.cut], None
            self.close_connection = True
        self.wfile.write(part)
