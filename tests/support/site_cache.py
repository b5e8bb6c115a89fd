"""A real nginx with the configuration of `broker-config/nginx`, in a directory of its own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

from unused_port import unused_port

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = REPOSITORY / "broker-config" / "nginx" / "site-cache.conf"
START_SECONDS_MAX = 60
_AROUND = """\
daemon off;
pid ${DIR}/nginx.pid;
error_log ${DIR}/error.log info;
worker_processes 1;
events { worker_connections 512; }
http {
    client_body_temp_path ${DIR}/body;
    proxy_temp_path ${DIR}/proxy;
    fastcgi_temp_path ${DIR}/fastcgi;
    uwsgi_temp_path ${DIR}/uwsgi;
    scgi_temp_path ${DIR}/scgi;
    include ${DIR}/site-cache.conf;
}
"""

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def filled_in(settings: Mapping[str, object]) -> str:
    """Raises KeyError for a placeholder that nobody fills in. nginx's own ``$name`` stay."""

    class Placeholder(Template):
        pattern = (
            r"\$(?:\{(?P<braced>[A-Z_]+)\}|(?P<named>(?!))|(?P<escaped>(?!))|(?P<invalid>(?!)))"
        )

    return Placeholder(CONFIGURATION.read_text()).substitute(
        {name: str(value) for name, value in settings.items()}
    )


@contextmanager
def running_cache(directory: Path, **settings: object) -> Iterator[int]:
    """The port it listens on. ``settings`` are the placeholders that are not of its directory."""
    assert NGINX is not None
    directory.mkdir(parents=True)
    port = unused_port()
    own = {
        "CACHE_DIR": directory / "cache",
        "CACHE_MAX_SIZE": "64m",
        "LISTEN": f"127.0.0.1:{port}",
        "SERVER_NAME": "localhost",
        "ACCESS_LOG": directory / "access.log",
    }
    (directory / "site-cache.conf").write_text(filled_in({**own, **settings}))
    configuration = directory / "nginx.conf"
    configuration.write_text(_AROUND.replace("${DIR}", str(directory)))
    if os.geteuid() == 0:  # its worker becomes nobody
        configuration.write_text("user root;\n" + configuration.read_text())
    command = [NGINX, "-p", str(directory), "-c", str(configuration), "-e", "stderr"]
    with (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
        try:
            _wait_for(port, process, directory)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        said = (directory / "stderr").read_text()
        assert process.poll() is None, said
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx did not begin to listen")
