"""A repository at a host of one's own: its authority, its password, and nobody else's."""

import base64
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from mailboat_controller.gitops.git_access import (
    CREDENTIAL_BYTES_MAX,
    GitAccess,
    checked_access,
)
from mailboat_controller.gitops.git_program import GitFailed
from mailboat_controller.gitops.repository import Repository
from mailboat_schemas.errors import ConfigurationInvalid
from signed_repository import SignedRepository

HTTPS = "https://git.example/fleet.git"
CREDENTIAL = "robot:s3cret token"


class Guarded(SimpleHTTPRequestHandler):
    """Files for whoever knows the password."""

    def do_GET(self) -> None:
        wanted = f"Basic {base64.b64encode(CREDENTIAL.encode()).decode()}"
        if self.headers.get("Authorization") != wanted:
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *_words: object) -> None:
        """To nobody."""


@pytest.fixture
def origin(tmp_path: Path) -> SignedRepository:
    found = SignedRepository.make(tmp_path / "origin")
    found.write("fleet/harbour.yaml", "kind: Site\n")
    return found


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def host(tmp_path: Path, origin: SignedRepository, authority: trustme.CA) -> Iterator[str]:
    """The repository over https, as any host of files can serve it."""
    origin.commit()
    bare = tmp_path / "served" / "fleet.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", origin.tree, bare], check=True)
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True)
    handler = partial(Guarded, directory=str(tmp_path / "served"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    certificate = authority.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/fleet.git"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def credential(tmp_path: Path, text: str = CREDENTIAL) -> Path:
    file = tmp_path / "credential"
    file.touch(mode=0o600)
    file.write_text(f"{text}\n")
    return file


@pytest.mark.slow
def test_a_private_authority_and_a_password_are_used(
    tmp_path: Path, origin: SignedRepository, authority: trustme.CA, host: str
) -> None:
    ca, secret = tmp_path / "ca.pem", credential(tmp_path)
    authority.cert_pem.write_to_path(str(ca))

    def copy(name: str, *with_it: Path | None) -> Repository:
        access = checked_access(host, with_it[0], "", with_it[1])
        return Repository(tmp_path / name, host, "main", origin.signers, access)

    assert copy("both", ca, secret).fetch() == origin.git("rev-parse", "HEAD")
    with pytest.raises(GitFailed, match="certificate"):
        copy("no-ca", None, secret).fetch()
    with pytest.raises(GitFailed):
        copy("nobody", ca, None).fetch()
    secret.write_text("robot:wrong\n")
    with pytest.raises(GitFailed) as refused:
        copy("wrong", ca, secret).fetch()
    assert "wrong" not in str(refused.value)


@pytest.mark.slow
def test_a_proxy_is_where_git_goes(tmp_path: Path, origin: SignedRepository) -> None:
    origin.commit()
    access = checked_access(HTTPS, None, "http://127.0.0.1:1", None)

    with pytest.raises(GitFailed, match=r"127\.0\.0\.1 port 1"):
        Repository(tmp_path / "copy", HTTPS, "main", origin.signers, access).fetch()


@pytest.mark.parametrize(
    "proxy",
    [
        "proxy.example",
        "http://robot:secret@proxy.example",
        "-x",
        "file:///etc/passwd",
        "http://a b",
    ],
)
def test_a_proxy_is_an_address_without_a_secret(proxy: str) -> None:
    with pytest.raises(ConfigurationInvalid) as refused:
        checked_access(HTTPS, None, proxy, None)

    assert "secret" not in refused.value.what


def test_what_is_for_https_is_refused_elsewhere(tmp_path: Path) -> None:
    for given in ((tmp_path, "", None), (None, "http://proxy.example", None), (None, "", tmp_path)):
        with pytest.raises(ConfigurationInvalid):
            checked_access("ssh://git.example/fleet.git", *given)
    with pytest.raises(ConfigurationInvalid, match="no file of certificates"):
        checked_access(HTTPS, tmp_path / "none.pem", "", None)


@pytest.mark.parametrize(
    "text", ["", "token", ":token", "robot:", "robot:a\nX-Other: b", "x" * CREDENTIAL_BYTES_MAX]
)
def test_a_file_without_a_credential_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        GitAccess(credential=credential(tmp_path, text)).environment()


def test_a_credential_is_no_word_of_a_command_line_and_is_nobody_elses(tmp_path: Path) -> None:
    file = credential(tmp_path)
    access = checked_access(HTTPS, None, "", file)

    assert not any("Authorization" in each for each in access.settings())
    assert "Authorization: Basic " in access.environment()["GIT_CONFIG_VALUE_0"]
    file.chmod(0o644)
    with pytest.raises(ConfigurationInvalid, match="open to everybody"):
        access.environment()
