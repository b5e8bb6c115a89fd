"""Sites over HTTPS: made known, changed, shown, removed; what a site fetches for its own broker."""

import io
import os
import re
import subprocess
import tarfile
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from command_line import Said, mailboat
from mailboat_controller.broker import access_files
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.sites import bridge_news, orders, renewal
from mailboat_controller.sites.flapping import Flapping
from mailboat_controller.sites.kit import KitWishes, make_kit
from mailboat_controller.sites.policy import WINDOWS_MAX
from mailboat_controller.sites.queue_size import queue_size
from mailboat_controller.store import audit, broker_access, credentials, device_signs, sites
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from running_api import RunningApi, certificate_request

HARBOUR = {
    "name": "harbour",
    "broker_host": "broker.harbour.example",
    "cache_url": "https://cache.harbour.example:8444",
    "policy": "expected",
    "windows": [{"days": ["sat"], "start": "22:00", "minutes": 60}],
}
CERTIFICATES = "/v1/sites/harbour/certificates"
PEM = {"Content-Type": "application/x-pem-file"}


@pytest.fixture(autouse=True)
def harbour(api: RunningApi) -> None:
    if api.ask("GET", "/v1/sites/harbour", by="vera").status == 404:
        assert api.ask("POST", "/v1/sites", by="alice", body=HARBOUR).status == 201


def shown(api: RunningApi, name: str = "harbour") -> Any:
    return api.ask("GET", f"/v1/sites/{name}", by="vera").json


def tell(api: RunningApi, payload: bytes, *, retain: bool = False, site: str = "harbour") -> int:
    topic = f"$SYS/broker/connection/{site}/state"
    return bridge_news.take(
        api.store, [Incoming(topic=topic, payload=payload, retain=retain)], api.now(), Flapping()
    )


def unpacked(path: Path) -> dict[str, tuple[bytes, int]]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        found = {}
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = (file.read(), entry.mode)
        return found


def kit(api: RunningApi, out: Path, name: str = "harbour", **wishes: Any) -> Any:
    settings = api.settings.model_copy(update={"listen_port": api.port})
    made = make_kit(
        settings, name, out, KitWishes(**wishes), actor="local:test", now=datetime.now(UTC)
    )
    files = unpacked(made.path)
    for part in ("bridge.pem", "bridge.key"):
        (out.parent / part).write_bytes(files[part][0])
    api.identities[name] = (out.parent / "bridge.pem", out.parent / "bridge.key")
    return files


def test_a_change_leaves_what_it_does_not_name(api: RunningApi) -> None:
    body = {"labels": {"country": "no"}, "reason": "moved"}
    changed = api.ask("PATCH", "/v1/sites/harbour", by="alice", body=body).json

    assert changed["labels"] == {"country": "no"}
    assert changed["windows"] == HARBOUR["windows"]
    assert changed["broker_host"] == HARBOUR["broker_host"]
    with api.store.read() as tx:
        actions = [row.action for row in audit.page(tx, subject="site:harbour")]
    assert actions == ["site.add", "site.change"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"policy": "normal"}, "E-CONFIG"),  # it has windows, which would say nothing
        ({"broker_host": "two words"}, "E-REQUEST"),
        ({"cache_url": "http://cache"}, "E-REQUEST"),
        ({"windows": [{"start": "25:00", "minutes": 1}]}, "E-REQUEST"),
        ({"nonsense": 1}, "E-REQUEST"),
        ({"expected_until": "2020-01-01T00:00:00Z"}, "E-CONFIG"),  # it is over
        ({"windows": [{"start": "22:00", "minutes": 1}] * (WINDOWS_MAX + 1)}, "E-REQUEST"),
        ({"labels": {f"l{n}": "x" for n in range(33)}}, "E-REQUEST"),
    ],
)
def test_what_cannot_be_is_refused(api: RunningApi, change: Any, code: str) -> None:
    before = shown(api)
    answer = api.ask("PATCH", "/v1/sites/harbour", by="alice", body=change)

    assert answer.status in (400, 409, 422)
    assert answer.json["code"] == code
    assert shown(api) == before


def test_a_name_belongs_to_one_holder(api: RunningApi) -> None:
    for name in ("harbour", "build", "controller"):
        answer = api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": name})
        assert (answer.status, answer.json["code"]) == (409, "E-CONFLICT"), name
    assert api.enrol("harbour").json["code"] == "E-CONFLICT"


def test_there_are_no_more_sites_than_the_bound(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api.store.read() as tx:
        monkeypatch.setattr(orders, "SITES_MAX", len(sites.every(tx)))

    answer = api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": "surplus"})

    assert (answer.status, answer.json["code"]) == (409, "E-CONFLICT")
    assert "split the fleet" in answer.json["next_step"]


def test_devices_of_a_site_are_sent_to_its_broker_and_its_cache(api: RunningApi) -> None:
    there, here = api.kit(site="harbour"), api.kit()

    assert (there["mqtt_host"], there["mqtt_port"]) == ("broker.harbour.example", 8883)
    assert there["mirrors"] == ["https://cache.harbour.example:8444"]
    assert there["api_url"] == here["api_url"]
    assert (here["mqtt_host"], here["mirrors"]) == ("broker.example", [])


def test_devices_of_a_site_that_is_cut_off_are_unknown_since_then(api: RunningApi) -> None:
    assert api.enrol("crane-1", token=api.kit(site="harbour")["token"]).status == 201
    with api.store.transaction() as tx:
        device_signs.set_presence(tx, "crane-1", session=1, online=True, at=api.now())
    assert tell(api, b"1") == 1
    assert shown(api)["link"] == "connected"
    assert api.ask("GET", "/v1/devices/crane-1", by="vera").json["presence"] == "online"

    assert tell(api, b"0") == 1
    cut = shown(api)
    found = api.ask("GET", "/v1/devices?site=harbour", by="vera").json[0]

    assert (cut["link"], cut["link_since"]) == ("cut", found["presence_since"])
    assert (found["presence"], found["online"]) == ("unknown", True)
    assert found["presence_because"] == "the link to site harbour is away"
    assert tell(api, b"1") == 1


def test_news_of_bridges_that_are_no_site_change_nothing(api: RunningApi) -> None:
    before = shown(api)

    assert tell(api, b"0", site="elsewhere") == 0
    assert tell(api, b"perhaps") == 0
    assert tell(api, b"0", site="har/bour") == 0
    assert shown(api) == before


def test_a_kit_is_complete_and_its_keys_are_nobodys_to_read(
    api: RunningApi, tmp_path: Path
) -> None:
    files = kit(api, tmp_path / "harbour.tar", install_dir="/opt/site", devices=50, days=7)

    assert (tmp_path / "harbour.tar").stat().st_mode & 0o777 == 0o600
    assert {name for name, (_, mode) in files.items() if mode == 0o600} == {
        "bridge.key",
        "server.key",
    }
    texts = {name: content.decode() for name, (content, _) in files.items()}
    left = [name for name, text in texts.items() if re.search(r"\$\{[A-Z_]+\}", text)]
    assert left == []  # nothing to edit by hand
    assert "cafile /opt/site/ca.pem\n" in texts["mosquitto.conf"]
    assert "server_name cache.harbour.example;" in texts["site-cache.conf"]
    size = queue_size(50, 7)
    assert f"max_queued_messages {size.messages}\n" in texts["mosquitto.conf"]
    assert f"max_queued_bytes {size.bytes}\n" in texts["mosquitto.conf"]
    bridge = x509.load_pem_x509_certificate(files["bridge.pem"][0])
    assert bridge.subject.rfc4514_string().count("CN=harbour") == 1
    assert shown(api)["certificate_expires_at"] is not None
    with api.store.read() as tx:
        assert broker_access.read(tx, api.now()).sites == ("harbour",)


@pytest.mark.skipif(os.geteuid() != 0, reason="files change hands, which root alone may do")
def test_what_the_readme_says_lets_broker_and_cache_read_what_they_need_and_nobody_a_key(
    api: RunningApi, tmp_path: Path
) -> None:
    place, data = tmp_path / "etc", tmp_path / "var"
    wishes = {"install_dir": str(place), "data_dir": str(data), "run_as": "root"}
    readme = kit(api, tmp_path / "harbour.tar", **wishes)["README.md"][0].decode()
    unpack = textwrap.dedent(re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)[0])

    subprocess.run(["sh", "-e", "-c", unpack], cwd=tmp_path, check=True)

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    assert (mode(place), mode(data)) == (0o750, 0o711)  # nginx's workers go through the latter
    assert {mode(path) for path in place.glob("*.key")} == {0o640}
    assert mode(place / "refresh") == 0o755


@pytest.mark.parametrize(
    "wish",
    [
        {"install_dir": "/etc/x\nallow_anonymous true"},
        {"install_dir": "/etc/x;return"},  # nginx
        {"data_dir": "/var/%n"},  # systemd
        {"data_dir": "var/site"},  # from wherever it is started
        {"listen": "0.0.0.0 ssl; return 200 x"},
        {"run_as": ""},
        {"run_as": "-x"},
        {"cache_size": "20g;"},
    ],
)
def test_what_could_say_more_in_a_configuration_than_it_should_is_refused(
    api: RunningApi, tmp_path: Path, wish: dict[str, str]
) -> None:
    def kits() -> int:
        with api.store.read() as tx:
            return len([row for row in credentials.every(tx) if row.kind == Kind.SITE])

    count = kits()
    with pytest.raises(ConfigurationInvalid):
        kit(api, tmp_path / "x.tar", **wish)
    assert kits() == count


def test_a_kit_for_ipv6_says_so_to_nginx_too(api: RunningApi, tmp_path: Path) -> None:
    files = kit(api, tmp_path / "harbour.tar", listen="::")

    assert b"listen [::]:8444 ssl;" in files["site-cache.conf"][0]
    assert b"listener 8883 ::\n" in files["mosquitto.conf"][0]


class TestRenewal:
    """What `refresh` asks for in the last months of the site's certificates."""

    @pytest.fixture
    def request_pem(self) -> str:
        return certificate_request(ec.generate_private_key(ec.SECP256R1()), "somebody-else")

    def test_names_come_from_the_registry_and_the_older_one_stays_good(
        self, api: RunningApi, tmp_path: Path, request_pem: str
    ) -> None:
        kit(api, tmp_path / "harbour.tar")
        made = [
            api.ask("POST", f"{CERTIFICATES}/{part}", by="harbour", body=request_pem, headers=PEM)
            for part in ("server", "bridge")
        ]

        assert [answer.status for answer in made] == [201, 201]
        server, bridge = (x509.load_pem_x509_certificate(answer.content) for answer in made)
        assert bridge.subject.rfc4514_string() == "OU=site,O=demo,CN=harbour"
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [
            "broker.harbour.example",
            "cache.harbour.example",
        ]
        assert api.ask("GET", "/v1/sites/harbour/access/acl", by="harbour").status == 200
        assert shown(api)[
            "certificate_expires_at"
        ] == bridge.not_valid_after_utc.isoformat().replace("+00:00", "Z")

    def test_it_is_for_the_site_itself_and_for_a_request_that_holds(
        self, api: RunningApi, tmp_path: Path, request_pem: str
    ) -> None:
        kit(api, tmp_path / "harbour.tar")
        refused = {
            path: api.ask("POST", path, by="harbour", body=body, headers=PEM)
            for path, body in (
                ("/v1/sites/quarry/certificates/bridge", request_pem),
                ("/v1/sites/harbour/certificates/ca", request_pem),
                (f"{CERTIFICATES}/bridge", request_pem.replace("A", "B", 9)),
                (f"{CERTIFICATES}/server", "x" * 20_000),
            )
        }

        assert [answer.status for answer in refused.values()] == [403, 422, 400, 400]

    def test_a_taken_site_cannot_fill_the_database_with_certificates(
        self, api: RunningApi, tmp_path: Path, request_pem: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": "canal"})
        kit(api, tmp_path / "canal.tar", "canal")
        monkeypatch.setattr(renewal, "RENEWALS_PER_DAY_MAX", 2)
        path = "/v1/sites/canal/certificates/bridge"

        def statuses() -> list[int]:
            return [
                api.ask("POST", path, by="canal", body=request_pem, headers=PEM).status
                for _ in range(3)
            ]

        today = statuses()
        api.clock_ahead = timedelta(days=1)
        try:
            tomorrow = statuses()
        finally:
            api.clock_ahead = timedelta()

        assert (today, tomorrow) == ([201, 201, 429], [201, 201, 429])


def test_a_site_that_fetches_all_the_time_is_seldom_written_down(
    api: RunningApi, tmp_path: Path
) -> None:
    kit(api, tmp_path / "harbour.tar")
    seen = set()
    for _ in range(3):
        assert api.ask("GET", "/v1/sites/harbour/access/acl", by="harbour").status == 200
        seen.add(shown(api)["fetched_at"])
    api.clock_ahead = sites.FETCHES_NOTED_EVERY
    try:
        assert api.ask("GET", "/v1/sites/harbour/access/acl", by="harbour").status == 200
        later = shown(api)["fetched_at"]
    finally:
        api.clock_ahead = timedelta()

    assert len(seen) == 1
    assert later not in seen


def test_a_site_fetches_its_own_rules_and_no_others(api: RunningApi, tmp_path: Path) -> None:
    other = HARBOUR | {"name": "quarry"}
    api.ask("POST", "/v1/sites", by="alice", body=other)
    kit(api, tmp_path / "harbour.tar")
    path = "/v1/sites/harbour/access/acl"

    first = api.ask("GET", path, by="harbour")
    again = api.ask("GET", path, by="harbour", headers={"If-None-Match": first.headers["etag"]})

    assert (first.status, again.status) == (200, 304)
    assert b"pattern write mb/1/demo/site/harbour/dev/%u/up/events\n" in first.content
    assert shown(api)["fetched_at"] is not None
    for name in ("quarry", "nowhere"):
        answer = api.ask("GET", f"/v1/sites/{name}/access/acl", by="harbour")
        assert (answer.status, answer.json["code"]) == (403, "E-NOT-PERMITTED")
    assert api.ask("GET", "/v1/devices", by="harbour").status == 403


def test_whoever_is_revoked_is_gone_from_what_the_site_fetches(
    api: RunningApi, tmp_path: Path
) -> None:
    kit(api, tmp_path / "harbour.tar")
    assert api.enrol("crane-3", token=api.kit(site="harbour")["token"]).status == 201
    certificate = x509.load_pem_x509_certificate(api.identities["crane-3"][0].read_bytes())

    elsewhere = api.ask("GET", "/v1/sites/harbour/access/acl", by="harbour").content
    api.ask("POST", "/v1/devices/crane-3/revoke", by="alice", body={"reason": "stolen"})
    with api.store.read() as tx:
        access = broker_access.read(tx, api.now())
    access_files.write(
        api.settings.broker_dir, access, fleet="demo", authority=api.authority, now=api.now()
    )
    rules = api.ask("GET", "/v1/sites/harbour/access/acl", by="harbour").content
    revoked = api.ask("GET", "/v1/sites/harbour/access/crl.pem", by="harbour").content

    assert rules.endswith(b"user crane-3\ntopic deny #\n")
    assert elsewhere.count(b"user ") == elsewhere.count(b"user harbour\ntopic write ") == 1
    serials = {each.serial_number for each in x509.load_pem_x509_crl(revoked)}
    assert certificate.serial_number in serials


def test_a_site_is_removed_when_its_devices_are_gone_and_its_bridge_with_it(
    api: RunningApi, tmp_path: Path
) -> None:
    api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": "lock"})
    kit(api, tmp_path / "lock.tar", "lock")
    assert api.enrol("gate-1", token=api.kit(site="lock")["token"]).status == 201
    order = {"reason": "closed"}

    first = api.ask("POST", "/v1/sites/lock/remove", by="alice", body=order)
    api.ask("POST", "/v1/devices/gate-1/revoke", by="alice", body=order)
    second = api.ask("POST", "/v1/sites/lock/remove", by="alice", body=order)

    assert (first.status, second.status) == (409, 200)
    assert shown(api, "lock")["code"] == "E-NOT-FOUND"
    refused = api.ask("GET", "/v1/sites/lock/access/acl", by="lock")
    assert (refused.status, refused.json["code"]) == (403, "E-REVOKED")


def test_a_kit_is_not_made_for_a_name_that_somebody_else_has_by_now(
    api: RunningApi, tmp_path: Path
) -> None:
    api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": "mole"})
    api.issue(Kind.DASHBOARD, "mole")

    with pytest.raises(Conflict):
        kit(api, tmp_path / "mole.tar", "mole")


def test_a_site_that_only_the_broker_remembers_is_cut_when_nothing_comes(api: RunningApi) -> None:
    api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": "pier"})
    assert api.enrol("pier-1", token=api.kit(site="pier")["token"]).status == 201
    tell(api, b"1", retain=True, site="pier")
    assert shown(api, "pier")["link"] == "unconfirmed"

    api.clock_ahead = timedelta(minutes=6)
    try:
        assert shown(api, "pier")["link"] == "cut"
        with api.store.transaction() as tx:
            device_signs.mark_seen(tx, "pier-1", api.now())
        assert shown(api, "pier")["link"] == "connected"
    finally:
        api.clock_ahead = timedelta()


class TestCommands:
    """`mailboat site` as an operator types it."""

    @staticmethod
    def run(api: RunningApi, *words: str) -> Said:
        connection = ("--connection", str(api.connection_file("alice")), "--json")
        return mailboat("site", *words, *connection)

    def test_a_site_is_made_changed_shown_and_removed(self, api: RunningApi) -> None:
        add = ("add", "dam", "--broker-host", "10.0.0.7", "--policy", "expected")
        made = self.run(api, *add, "--window", "sat,sun 08:00 1.5h", "--label", "river=rhine").json
        until = self.run(api, "change", "dam", "--until", "2099-12-24T18:00").json
        plain = ("--policy", "error", "--until", "none", "--window", "none", "--label", "none")
        error = self.run(api, "change", "dam", *plain, "--broker-host", "dam.example").json
        listed = self.run(api, "list").json
        shown = self.run(api, "show", "dam").json
        removed = self.run(api, "remove", "dam", "--reason", "flooded").json

        assert made["windows"] == ["sat,sun 08:00 1.5h"]
        assert (made["link"], made["broker_port"]) == ("never", 8883)
        assert until["expected_until"] == "2099-12-24T18:00:00Z"
        assert (error["expected_until"], error["windows"], error["labels"]) == (None, [], {})
        assert "dam" in [row["name"] for row in listed]
        assert (shown["broker_host"], shown["policy"]) == ("dam.example", "error")
        assert removed == {"name": "dam", "removed": True}

    @pytest.mark.parametrize(
        "words",
        [
            ("--window", "every night"),
            ("--until", "tomorrow"),
            ("--label", "plain"),
        ],
    )
    def test_what_cannot_be_understood_is_told_before_anything_is_sent(
        self, api: RunningApi, words: tuple[str, str]
    ) -> None:
        said = self.run(api, "change", "harbour", *words)

        assert said.code == 2
        assert words[0] in said.err

    @pytest.mark.parametrize("name", ["../devices", "a/b", "har+bour", "x\ny", "#", "x" * 64])
    def test_a_name_that_leaves_its_place_is_no_name(self, api: RunningApi, name: str) -> None:
        said = self.run(api, "show", name)

        assert said.code == 2
        assert "lower-case" in said.err

    def test_a_kit_is_made_on_the_controllers_disk(self, api: RunningApi, tmp_path: Path) -> None:
        api.ask("POST", "/v1/sites", by="alice", body=HARBOUR | {"name": "weir"})
        out, config = tmp_path / "weir.tar", api.directory / "data" / "controller.toml"
        words = ("--out", str(out), "--config", str(config), "--devices", "3", "--json")
        said = mailboat("site", "kit", "weir", *words)

        assert said.code == 0, said.err
        assert said.json["queue_days"] == 7
        assert "README.md" in unpacked(out)
