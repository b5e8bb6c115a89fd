"""The site cache of `broker-config/nginx`: a real nginx before a real controller."""

import asyncio
import functools
import hashlib
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cutting_proxy import BadLink
from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.mirrored_source import MirroredSource
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.config import AgentConfig
from mailboat_agent.identity.credentials import Credentials
from mailboat_agent.identity.device_key import tls_context
from mailboat_schemas.deltas import Source
from running_api import RunningApi, running_api
from site_cache import NGINX, running_cache

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]


def plain(story: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(story)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(story(*arguments, **named))

    return run


CONTENT = random.Random(7).randbytes(5_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
DEVICES = tuple(f"kiosk-{number}" for number in range(1, 21))
PATH = f"/v1/artifacts/sha256/{DIGEST}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        for device in ("site-cache", *DEVICES):
            assert api.enrol(device).status == 201
        assert api.ask("PUT", PATH, by="build", body=CONTENT).status == 201
        yield api


@dataclass
class Site:
    """A cache before the controller, and a counted line between them."""

    api: RunningApi
    directory: Path
    line: BadLink
    port: int = 0
    sources: list[HttpsSource] = field(default_factory=list)

    def connect(self, port: int, source: Source, name: str = "kiosk-1") -> HttpsSource:
        tls = tls_context(self.api.authority.ca_path, *self.api.identities[name])
        found = HttpsSource(f"https://localhost:{port}", tls, source=source)
        self.sources.append(found)
        return found

    def device(self, name: str = "kiosk-1") -> MirroredSource:
        """Asks the cache, then the controller."""
        cache = self.connect(self.port, Source.SITE_CACHE, name)
        controller = self.connect(self.api.port, Source.CONTROLLER, name)
        return MirroredSource(
            controller=lambda: controller,
            caches=lambda: (cache,),
            cache_names=("cache",),
            object_store=None,
            rng=random.Random(1),
        )

    def ask(self, method: str, path: str, by: str | None, **headers: str) -> tuple[int, bytes]:
        connection = HTTPSConnection("localhost", self.port, context=self.tls(by), timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def tls(self, by: str | None) -> ssl.SSLContext:
        return self.api.tls(by)


@asynccontextmanager
async def site(
    api: RunningApi, directory: Path, revoked: tuple[str, ...] = ()
) -> AsyncIterator[Site]:
    now = datetime.now(UTC)
    server = api.authority.issue_server(["localhost"], now=now)
    certificate, key = directory / "server.pem", directory / "server.key"
    certificate.write_bytes(server.certificate)
    key.write_bytes(server.key)
    crl = directory / "crl.pem"
    crl.write_bytes(api.authority.revocation_list(revoked, now=now))
    async with BadLink(api.port, random.Random(1)).open() as line:
        found = Site(api, directory, line)
        cache_certificate, cache_key = api.identities["site-cache"]
        with running_cache(
            directory / "nginx",
            CONTROLLER_HOST="localhost",
            CONTROLLER_PORT=line.port,
            SERVER_CERTIFICATE=certificate,
            SERVER_KEY=key,
            CA_FILE=api.authority.ca_path,
            CRL_FILE=crl,
            CACHE_CERTIFICATE=cache_certificate,
            CACHE_KEY=cache_key,
        ) as found.port:
            try:
                yield found
            finally:
                for source in found.sources:
                    await source.close()


@plain
async def test_twenty_devices_cost_one_upstream_fetch(api: RunningApi, tmp_path: Path) -> None:
    async with site(api, tmp_path) as here:
        all_arrivals = [Arrivals() for _ in DEVICES]
        hashes = await asyncio.gather(
            *(
                here.device(name).fetch_artifact(
                    DIGEST, len(CONTENT), tmp_path / f"{name}.part", None, arrivals
                )
                for name, arrivals in zip(DEVICES, all_arrivals, strict=True)
            )
        )
        assert {hashed.sha256 for hashed in hashes} == {DIGEST}
        for arrivals in all_arrivals:
            assert arrivals.source_bytes == {Source.SITE_CACHE: len(CONTENT)}
        # The line may carry up to the sockets' buffers more than was read.
        assert len(CONTENT) <= here.line.down_bytes <= 1.05 * len(CONTENT)


@plain
async def test_a_part_is_resumed_in_the_middle_of_a_piece(api: RunningApi, tmp_path: Path) -> None:
    async with site(api, tmp_path) as here:
        part = tmp_path / "resumed.part"
        part.write_bytes(CONTENT[:3_333_333])
        arrivals = Arrivals()
        hashed = await here.device().fetch_artifact(DIGEST, len(CONTENT), part, None, arrivals)
        assert hashed.sha256 == DIGEST
        assert arrivals.source_bytes == {Source.SITE_CACHE: len(CONTENT) - 3_333_333}
        # The two pieces from there on, and the first, by which nginx knows the length.
        assert here.line.down_bytes < 3.1 * (1 << 20)


@plain
async def test_what_is_cached_needs_no_controller(api: RunningApi, tmp_path: Path) -> None:
    async with site(api, tmp_path) as here:
        cache = here.connect(here.port, Source.SITE_CACHE)
        await cache.fetch_artifact(DIGEST, len(CONTENT), tmp_path / "first.part")
        carried = here.line.down_bytes
        here.line.upstream = 1  # nobody there
        hashed = await cache.fetch_artifact(DIGEST, len(CONTENT), tmp_path / "second.part")
        assert hashed.sha256 == DIGEST
        assert here.line.down_bytes == carried


@plain
async def test_only_devices_of_the_fleet_are_served(api: RunningApi, tmp_path: Path) -> None:
    async with site(api, tmp_path, revoked=(_serial(api, "kiosk-2"),)) as here:
        assert (await asyncio.to_thread(here.ask, "GET", PATH, "kiosk-1"))[0] == 200
        assert (await asyncio.to_thread(here.ask, "GET", PATH, None))[0] == 400
        assert (await asyncio.to_thread(here.ask, "GET", PATH, "kiosk-2"))[0] == 400  # revoked
        assert (await asyncio.to_thread(here.ask, "GET", PATH, "build"))[0] == 403


@plain
async def test_nothing_but_artifacts_is_behind_it(api: RunningApi, tmp_path: Path) -> None:
    async with site(api, tmp_path) as here:
        for path in (
            "/",
            "/v1/health",
            "/v1/manifests/kiosk-x86",
            PATH + "?token=mba_secret",
            PATH.upper().lower() + "0",
            "/v1/artifacts/sha256/../../devices",
        ):
            status, _ = await asyncio.to_thread(here.ask, "GET", path, "kiosk-1")
            assert status in (400, 404), path
        for method in ("PUT", "POST", "DELETE"):
            status, _ = await asyncio.to_thread(here.ask, method, PATH, "kiosk-1")
            assert status in (403, 405), method
        assert here.line.connections == 0


@plain
async def test_a_missing_artifact_is_not_remembered_as_missing(
    api: RunningApi, tmp_path: Path
) -> None:
    content = os.urandom(1000)
    digest = hashlib.sha256(content).hexdigest()
    path = f"/v1/artifacts/sha256/{digest}"
    async with site(api, tmp_path) as here:
        assert (await asyncio.to_thread(here.ask, "GET", path, "kiosk-1"))[0] == 404
        answer = await asyncio.to_thread(api.ask, "PUT", path, by="build", body=content)
        assert answer.status == 201
        assert await asyncio.to_thread(here.ask, "GET", path, "kiosk-1") == (200, content)


@plain
async def test_a_poisoned_cache_costs_one_attempt_and_no_more(
    api: RunningApi, tmp_path: Path
) -> None:
    """Somebody writes to the files of the cache."""
    async with site(api, tmp_path) as here:
        cache = here.connect(here.port, Source.SITE_CACHE)
        await cache.fetch_artifact(DIGEST, len(CONTENT), tmp_path / "first.part")
        poisoned = 0
        for path in (tmp_path / "nginx" / "cache").rglob("*"):
            if path.is_file():
                stored = bytearray(path.read_bytes())
                stored[-100:] = bytes(100)
                path.write_bytes(stored)
                poisoned += 1
        assert poisoned == 5
        device, arrivals = here.device(), Arrivals()
        part = tmp_path / "second.part"
        hashed = await device.fetch_artifact(DIGEST, len(CONTENT), part, None, arrivals)
        assert hashed.sha256 == DIGEST
        assert part.read_bytes() == CONTENT
        assert arrivals.source_bytes == {
            Source.SITE_CACHE: len(CONTENT),
            Source.CONTROLLER: len(CONTENT),
        }
        # It is not asked for this file again so soon.
        part.unlink()
        await device.fetch_artifact(DIGEST, len(CONTENT), part, None, arrivals)
        assert arrivals.source_bytes[Source.SITE_CACHE] == len(CONTENT)


@plain
async def test_a_cache_that_is_away_is_passed_over(api: RunningApi, tmp_path: Path) -> None:
    async with site(api, tmp_path) as here:
        here.port = 1  # nobody there
        arrivals, part = Arrivals(), tmp_path / "x.part"
        hashed = await here.device().fetch_artifact(DIGEST, len(CONTENT), part, None, arrivals)
        assert hashed.sha256 == DIGEST
        assert arrivals.source_bytes == {Source.CONTROLLER: len(CONTENT)}


@plain
async def test_an_agent_finds_the_cache_by_its_configuration(
    api: RunningApi, tmp_path: Path
) -> None:
    async with site(api, tmp_path) as here:
        certificate, key = api.identities["kiosk-1"]
        config = AgentConfig(
            fleet="demo",
            device="kiosk-1",
            hardware_class="kiosk-x86",
            data_dir=tmp_path,
            api_url=api.url,
            mqtt_host="localhost",
            mqtt_port=8883,
            ca=api.authority.ca_path,
            certificate=certificate,
            key=key,
            trust_root=tmp_path / "root.json",
            mirrors=(f"https://localhost:{here.port}/",),
        )
        store, arrivals = ReleaseStore(tmp_path), Arrivals()
        credentials = Credentials(config, store.content_keys, now=datetime.now(UTC))
        try:
            source = credentials.artifacts(random.Random(1))
            part = tmp_path / "x.part"
            hashed = await source.fetch_artifact(DIGEST, len(CONTENT), part, None, arrivals)
        finally:
            await credentials.close()
        assert hashed.sha256 == DIGEST
        assert arrivals.source_bytes == {Source.SITE_CACHE: len(CONTENT)}


def _serial(api: RunningApi, device: str) -> str:
    certificate = x509.load_pem_x509_certificate(api.identities[device][0].read_bytes())
    return f"{certificate.serial_number:x}"
