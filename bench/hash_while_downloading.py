"""A large artifact over HTTPS into the store: hashed as it comes, against hashed afterwards.

The device's own download and store; the same file, alternating, on a server in another process.
"""

import argparse
import asyncio
import hashlib
import http.server
import json
import multiprocessing
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import trustme

SIZE_MIB = 256
ROUNDS = 5
RATIO_MAX = 1.0


def serve(content: Path, certificates: Path, tell: Connection) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(content.stat().st_size))
            self.end_headers()
            with content.open("rb") as file:
                while chunk := file.read(1 << 20):
                    self.wfile.write(chunk)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    tell.send(server.server_address[1])
    server.serve_forever()


async def fetched(url: str, tls: ssl.SSLContext, directory: Path, digest: str, length: int) -> dict:
    """Seconds of the transfer, and of what came after it, with and without a running hash."""
    from mailboat_agent.artifacts.download import HttpsSource
    from mailboat_agent.artifacts.release_store import ReleaseStore

    seconds: dict[str, list[float]] = {
        "along": [],
        "after": [],
        "admit_along": [],
        "admit_after": [],
    }
    source = HttpsSource(url, tls)
    for _ in range(ROUNDS):
        for way in ("along", "after"):
            with tempfile.TemporaryDirectory(dir=directory) as name:
                store = ReleaseStore(Path(name))
                began = time.perf_counter()
                hashed = await source.fetch_artifact(digest, length, store.staging_path(digest))
                arrived = time.perf_counter()
                store.admit(digest, length, hashed if way == "along" else None)
                seconds[way].append(time.perf_counter() - began)
                seconds[f"admit_{way}"].append(time.perf_counter() - arrived)
    await source.close()
    return {name: round(statistics.median(each), 3) for name, each in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        content = directory / "content"
        content.write_bytes(os.urandom(1 << 20) * SIZE_MIB)
        digest = hashlib.sha256(content.read_bytes()).hexdigest()
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            directory / "server.pem"
        )
        here, there = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(content, directory, there))
        server.start()
        try:
            tls = ssl.create_default_context()
            authority.configure_trust(tls)
            url = f"https://127.0.0.1:{here.recv()}"
            found = asyncio.run(fetched(url, tls, directory, digest, SIZE_MIB << 20))
        finally:
            server.kill()
            server.join()
    ratio = round(found["along"] / found["after"], 2)
    ok = found["admit_along"] < found["admit_after"]
    result = {"mib": SIZE_MIB, **found, "ratio": ratio, "ok": ok}
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{SIZE_MIB} MiB over HTTPS into the store, medians of {ROUNDS}")
        for way, words in (("along", "hashed as it comes"), ("after", "hashed afterwards ")):
            rest = found[f"admit_{way}"]
            print(f"{words}  {found[way]:6.2f} s, of it after the last byte {rest:6.3f} s")
        print(f"ratio {ratio}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
