"""The first ceremony: who ends up with which key, and that the factory root verifies the rest."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.ceremony import KEYS_PER_ROLE_MAX, Ceremony, Quorum, hold
from mailboat_controller.authority.keys import PASSPHRASE_VARIABLE, create_key, load_key
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.trust.bundle import trust_file_name
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, SignatureInvalid
from mailboat_schemas.trust import TrustView, accept_trust

NOW = datetime.now(UTC)  # python-tuf reads the wall clock
ONE, TWO_OF_THREE = Quorum(threshold=1, keys=1), Quorum(threshold=2, keys=3)
MODELS = ("vad", "asr")
OFFLINE = (
    "root",
    "targets",
    *(f"{kind}-{model}" for kind in ("release", "approval") for model in MODELS),
    "policy",
    "config",
)


def ceremony(quorum: Quorum = ONE, *, passphrase: bytes | None = None) -> Ceremony:
    return Ceremony(
        models=MODELS, root=quorum, targets=quorum, approval=quorum, passphrase=passphrase
    )


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simple") / "trust"
    hold(ceremony(), directory, NOW)
    return directory


@pytest.fixture(scope="module")
def quorate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quorate") / "trust"
    hold(ceremony(TWO_OF_THREE), directory, NOW)
    return directory


def keys_below(directory: Path) -> dict[str, CryptoSigner]:
    return {
        str(path.relative_to(directory).with_suffix("")): load_key(path)
        for path in sorted(directory.rglob("*.pem"))
    }


def trust_of(directory: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (directory / "controller/trust").iterdir()}


def verifies(directory: Path, role: str, signers: list[CryptoSigner]) -> bool:
    """Whether these keys make a role that everybody would take."""
    files = trust_of(directory)
    root = Metadata[Root].from_bytes(files["1.root"]).signed
    targets = Metadata[Targets].from_bytes(files["targets"]).signed
    delegator = root if role in root.roles else targets
    content = Metadata[Targets].from_bytes(files["1.root" if role == "root" else role])
    signed = Metadata[Targets].from_bytes(roles.sign(content.signed, signers))
    try:
        delegator.verify_delegate(role, signed.signed_bytes, signed.signatures)
    except UnsignedMetadataError:
        return False
    return True


class TestWhoHoldsWhat:
    def test_keys_are_sorted_by_who_may_hold_them(self, simple: Path) -> None:
        assert list(keys_below(simple)) == [
            "approver/asr",
            "approver/vad",
            "ci/asr",
            "ci/vad",
            "controller/keys/director",
            "controller/keys/snapshot",
            "controller/keys/timestamp",
            "fleet/config",
            "fleet/policy",
            "offline/root",
            "offline/targets",
        ]

    @pytest.mark.parametrize("role", OFFLINE)
    def test_all_keys_of_the_controller_together_sign_no_offline_role(
        self, simple: Path, role: str
    ) -> None:
        assert not verifies(simple, role, list(keys_below(simple / "controller").values()))

    @pytest.mark.parametrize(
        "role", ["root", "targets", "approval-vad", "approval-asr", "release-asr"]
    )
    def test_a_pipeline_signs_the_releases_of_its_model_only(self, simple: Path, role: str) -> None:
        pipeline = [load_key(simple / "ci" / "vad.pem")]

        assert verifies(simple, "release-vad", pipeline)
        assert not verifies(simple, role, pipeline)

    @pytest.mark.parametrize("role", ["root", "targets", "release-vad", "approval-asr"])
    def test_an_approver_approves_its_model_only(self, simple: Path, role: str) -> None:
        approver = [load_key(simple / "approver" / "vad.pem")]

        assert verifies(simple, "approval-vad", approver)
        assert not verifies(simple, role, approver)

    def test_no_two_roles_share_a_key(self, simple: Path) -> None:
        ids = [signer.public_key.keyid for signer in keys_below(simple).values()]

        assert len(set(ids)) == len(ids)

    def test_the_controllers_folder_is_all_that_it_needs(self, simple: Path) -> None:
        online = OnlineKeys.load(simple / "controller" / "keys")
        targets = Metadata[Targets].from_bytes(trust_of(simple)["targets"]).signed

        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        assert targets.delegations.roles["director"].keyids == [online.director_keyid]
        assert {path.name for path in (simple / "controller").iterdir()} == {"keys", "trust"}

    def test_only_their_owner_reads_keys(self, quorate: Path) -> None:
        paths = list(quorate.rglob("*.pem"))

        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
        assert {stat.S_IMODE(path.parent.stat().st_mode) for path in paths} == {0o700}


class TestQuorums:
    def test_two_of_three_makes_three_keys_each(self, quorate: Path) -> None:
        names = {str(path.relative_to(quorate)) for path in quorate.rglob("*-?.pem")}

        assert names == {
            f"{name}-{number}.pem"
            for name in (
                "offline/root",
                "offline/targets",
                "approver/vad",
                "approver/asr",
                "fleet/policy",
                "fleet/config",
            )
            for number in (1, 2, 3)
        }
        assert (quorate / "ci" / "vad.pem").exists()

    @pytest.mark.parametrize(
        ("role", "keys"),
        [
            ("root", "offline/root"),
            ("targets", "offline/targets"),
            ("approval-vad", "approver/vad"),
        ],
    )
    def test_any_two_sign_and_one_does_not(self, quorate: Path, role: str, keys: str) -> None:
        first, second, third = (load_key(quorate / f"{keys}-{n}.pem") for n in (1, 2, 3))

        assert verifies(quorate, role, [first, third])
        assert verifies(quorate, role, [second, third])
        assert not verifies(quorate, role, [second])
        assert not verifies(quorate, role, [second, load_key(quorate / "ci" / "vad.pem")])

    @pytest.mark.parametrize(
        ("threshold", "keys"), [(0, 1), (2, 1), (-1, 3), (1, KEYS_PER_ROLE_MAX + 1)]
    )
    def test_that_cannot_be_met_are_refused(self, threshold: int, keys: int) -> None:
        with pytest.raises(ConfigurationInvalid):
            Quorum(threshold=threshold, keys=keys)

    def test_of_as_many_keys_as_are_allowed_are_held(self) -> None:
        assert Quorum(threshold=KEYS_PER_ROLE_MAX, keys=KEYS_PER_ROLE_MAX).keys == KEYS_PER_ROLE_MAX


class TestVerification:
    @pytest.mark.parametrize("which", ["simple", "quorate"])
    def test_the_factory_root_verifies_the_initial_set(
        self, which: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        directory: Path = request.getfixturevalue(which)
        factory_root = (directory / "root.json").read_bytes()
        files = trust_of(directory)
        offered = {
            trust_file_name(name, content): content
            for name, content in files.items()
            if name != "1.root"
        }

        held = accept_trust(
            offered, factory_root=factory_root, held={}, models=MODELS, scratch=tmp_path
        )

        view = TrustView(factory_root, held)
        assert set(view.versions().values()) == {1}
        assert sorted(view.roles()) == sorted({"director", *OFFLINE} - {"root", "targets"})
        for role in view.roles():
            if role != "director":
                delegated = view.delegated(role)
                assert delegated is not None
                assert (delegated.version, delegated.targets) == (1, {})
        assert view.standing("vad", "1.0.0").approved_digest is None

    def test_it_does_not_verify_the_set_of_another_ceremony(
        self, simple: Path, quorate: Path
    ) -> None:
        files = {f"{name}.json": content for name, content in trust_of(quorate).items()}

        with pytest.raises(SignatureInvalid):
            TrustView((simple / "root.json").read_bytes(), files)


class TestPassphrase:
    def test_encrypts_what_people_hold_and_not_what_the_controller_starts_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hold(ceremony(passphrase=b"correct horse"), tmp_path / "trust", NOW)
        for path in (tmp_path / "trust").rglob("*.pem"):
            if path.parent.name == "keys":
                load_pem_private_key(path.read_bytes(), None)
                continue
            assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            with pytest.raises(ConfigurationInvalid, match="is not a private key"):
                load_key(path)

        monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
        with pytest.raises(ConfigurationInvalid):
            load_key(tmp_path / "trust" / "ci" / "vad.pem")
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
        signer = load_key(tmp_path / "trust" / "ci" / "vad.pem")
        assert verifies(tmp_path / "trust", "release-vad", [signer])

    def test_in_the_environment_does_not_lock_out_keys_that_have_none(
        self, simple: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "for other keys")

        assert OnlineKeys.load(simple / "controller" / "keys").director_keyid


class TestRefusals:
    def test_nothing_is_ever_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "trust").mkdir()
        (tmp_path / "trust" / "note.txt").write_text("mine")

        with pytest.raises(Conflict):
            hold(ceremony(), tmp_path / "trust", NOW)
        assert [path.name for path in (tmp_path / "trust").iterdir()] == ["note.txt"]

    def test_an_empty_directory_is_filled(self, tmp_path: Path) -> None:
        assert hold(ceremony(), tmp_path, NOW) == tmp_path / "root.json"

    def test_a_file_in_its_place_stays(self, tmp_path: Path) -> None:
        (tmp_path / "trust").write_text("mine")

        with pytest.raises(Conflict):
            hold(ceremony(), tmp_path / "trust", NOW)
        assert (tmp_path / "trust").read_text() == "mine"

    @pytest.mark.parametrize("models", [("../vad",), ("Vad",), ("vad", ""), ("vad", "vad")])
    def test_names_that_cannot_be_make_no_key_at_all(
        self, tmp_path: Path, models: tuple[str, ...]
    ) -> None:
        wanted = Ceremony(models=models, root=ONE, targets=ONE, approval=ONE)

        with pytest.raises(ConfigurationInvalid):
            hold(wanted, tmp_path / "trust", NOW)
        assert not (tmp_path / "trust").exists()

    def test_a_key_is_never_written_over_another(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "ci.pem"
        create_key(path)
        before = path.read_bytes()

        with pytest.raises(Conflict):
            create_key(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("content", [None, b"", b"not a key", b"\xff" * 100_000])
    def test_what_is_no_key_says_what_to_do(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "ci.pem"
        if content is not None:
            path.write_bytes(content)

        with pytest.raises(ConfigurationInvalid) as refused:
            load_key(path)
        assert str(path) in refused.value.what
        assert refused.value.next_step

    def test_a_directory_is_no_key(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationInvalid):
            load_key(tmp_path)
