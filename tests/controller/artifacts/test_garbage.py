"""What nothing names goes, after its grace; what anything names stays, whoever asks."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mailboat_controller.artifacts import garbage, references
from mailboat_controller.artifacts.references import Use, referenced
from mailboat_controller.store import artifact_life, deltas, manifests
from mailboat_controller.store.deltas import DeltaRow, Key, State
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.deltas import Delta
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import Conflict
from released_files import Shop, digest_of
from trust_fleet import CLASS

NOTICE = timedelta(days=7)


class TestGrace:
    def test_an_upload_that_nobody_claims_goes_after_a_week(self, shop: Shop) -> None:
        digest = shop.put(b"nobody's")

        assert shop.collect() == 0
        shop.pass_time(days=7, seconds=-1)
        assert shop.collect() == 0
        shop.pass_time(seconds=1)
        assert shop.collect() == 1

        assert shop.held() == set()
        assert shop.audited("artifact.remove") == [digest]

    def test_begins_with_the_first_collection_that_finds_it_unnamed(
        self, corner_shop: Shop
    ) -> None:
        corner_shop.pass_time(days=30)
        corner_shop.put(b"new")

        assert corner_shop.collect() == 0

    def test_begins_anew_when_somebody_is_about_to_name_it(self, corner_shop: Shop) -> None:
        digest = corner_shop.put(b"soon")
        corner_shop.collect()
        corner_shop.pass_time(days=6)

        corner_shop.care.renew(digest)
        corner_shop.collect()
        corner_shop.pass_time(days=6)

        assert corner_shop.collect() == 0
        corner_shop.pass_time(days=1)
        assert corner_shop.collect() == 1

    def test_counts_from_now_on_after_the_clock_was_set_back(self, corner_shop: Shop) -> None:
        corner_shop.pass_time(days=1000)
        corner_shop.put(b"from the future")
        corner_shop.collect()

        corner_shop.pass_time(days=-1000)
        assert corner_shop.collect() == 0

        (end,) = corner_shop.care.collect(actor="x", dry_run=True).found.waiting.values()
        assert end == corner_shop.now + NOTICE

    def test_is_forgotten_once_something_names_it(self, corner_shop: Shop) -> None:
        corner_shop.put(b"model")
        corner_shop.collect()
        corner_shop.pass_time(days=8)
        corner_shop.publish("1.0.0", b"model")

        assert corner_shop.collect() == 0
        with corner_shop.store.read() as tx:
            assert artifact_life.unnamed(tx) == {}


def test_a_dry_run_says_what_would_go_and_changes_nothing(corner_shop: Shop) -> None:
    digest = corner_shop.put(b"nobody's")
    assert corner_shop.collect(dry_run=True) == 0
    with corner_shop.store.read() as tx:
        assert artifact_life.unnamed(tx) == {}
    corner_shop.collect()
    corner_shop.pass_time(days=7)

    done = corner_shop.care.collect(actor="x", dry_run=True)

    assert [entry.digest for entry in done.found.due] == [digest]
    assert corner_shop.held() == {digest}


class TestRetiredReleases:
    def test_lose_the_files_that_no_other_release_has(self, shop: Shop) -> None:
        shop.publish("1.0.0", b"old", b"shared", approved=False)
        shop.publish("1.1.0", b"new", b"shared", approved=False)
        shop.pass_time(days=8)
        assert shop.collect() == 0

        shop.retire("1.0.0")
        shop.collect()
        assert len(shop.held()) == 3  # the grace period
        shop.pass_time(days=7)
        assert shop.collect() == 1

        assert shop.held() == {digest_of(b"new"), digest_of(b"shared")}

    @pytest.mark.slow
    def test_keep_them_while_a_class_is_still_told_of_it(self, corner_shop: Shop) -> None:
        corner_shop.publish("1.0.0", b"one")
        corner_shop.complete("1.0.0")
        corner_shop.publish("1.1.0", b"two")
        corner_shop.complete("1.1.0")
        with pytest.raises(Conflict, match="keeps it to go back to"):
            corner_shop.retire("1.0.0")

        corner_shop.retire("1.0.0", force=True, told=False)
        corner_shop.collect()
        corner_shop.pass_time(days=8)
        assert corner_shop.collect() == 0
        assert digest_of(b"one") in corner_shop.held()

        corner_shop.run()  # the class is told otherwise
        corner_shop.collect()
        corner_shop.pass_time(days=7)
        assert corner_shop.collect() == 1
        assert corner_shop.held() == {digest_of(b"two")}

    def test_keep_them_while_a_live_release_falls_back_to_it(self, corner_shop: Shop) -> None:
        corner_shop.publish("1.0.0", b"safe", approved=False)
        corner_shop.publish("1.1.0", b"new", approved=False, fallback="1.0.0")
        corner_shop.retire("1.0.0", force=True)

        for _ in range(2):
            corner_shop.collect()
            corner_shop.pass_time(days=8)

        assert digest_of(b"safe") in corner_shop.held()


def test_a_submission_between_looking_and_removing_saves_its_files(corner_shop: Shop) -> None:
    corner_shop.put(b"claimed in time")
    corner_shop.put(b"renewed in time")
    corner_shop.put(b"nobody's")
    corner_shop.collect()
    corner_shop.pass_time(days=7)
    due = corner_shop.care.collect(actor="x", dry_run=True).found.due
    assert len(due) == 3

    corner_shop.publish("1.0.0", b"claimed in time", approved=False)
    corner_shop.care.renew(digest_of(b"renewed in time"))
    removed = garbage._remove(corner_shop.store, corner_shop.artifacts, due, corner_shop.now, "x")

    assert [entry.digest for entry in removed] == [digest_of(b"nobody's")]
    assert corner_shop.held() == {
        digest_of(b"claimed in time"),
        digest_of(b"renewed in time"),
    }


def test_another_source_of_names_keeps_what_it_names(
    corner_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = corner_shop.put(b"a patch")

    def of_patches(_tx: Transaction) -> list[Use]:
        return [Use(digest, 7, "a delta")]

    monkeypatch.setattr(references, "SOURCES", (*references.SOURCES, of_patches))

    for _ in range(2):
        assert corner_shop.collect() == 0
        corner_shop.pass_time(days=8)
    with corner_shop.store.read() as tx:
        assert referenced(tx)[digest].by == "a delta"


def test_a_patch_that_was_built_is_kept_until_nobody_wants_it(corner_shop: Shop) -> None:
    patch, key = corner_shop.put(b"patch"), Key("ab" * 32, "cd" * 32, 1 << 20)
    built = DeltaRow(
        key=key,
        target_length=1,
        base_length=1,
        state=State.BUILT,
        next_attempt_at=corner_shop.now,
        patch=patch,
        patch_length=5,
        queued_at=corner_shop.now,
        updated_at=corner_shop.now,
    )
    with corner_shop.store.transaction() as tx:
        deltas.put(tx, built)
    for _ in range(2):
        assert corner_shop.collect() == 0
        corner_shop.pass_time(days=8)

    with corner_shop.store.transaction() as tx:
        deltas.remove(tx, [key])
    corner_shop.collect()
    corner_shop.pass_time(days=7)
    assert corner_shop.collect() == 1


def test_whatever_a_class_is_told_of_now_is_named_patches_too(corner_shop: Shop) -> None:
    corner_shop.publish("1.0.0", b"model")
    corner_shop.complete("1.0.0")
    with corner_shop.store.read() as tx:
        assert {use.by for use in references.of_manifests(tx)} == {"vad 1.0.0"}
        row = manifests.of_class(tx, CLASS)
    assert row is not None
    delta = Delta(
        target=digest_of(b"model"),
        format="full-zstd/1",
        patch=digest_of(b"patch"),
        patch_length=5,
        memory_bytes=1 << 20,
    )
    bundle = decode(ManifestBundle, row.bundle)
    envelope = decode(Envelope, bundle.desired)
    desired = decode(DesiredState, envelope.payload).model_copy(update={"deltas": (delta,)})
    told = bundle.model_copy(
        update={"desired": encode(envelope.model_copy(update={"payload": encode(desired)}))}
    )
    with corner_shop.store.transaction() as tx:
        manifests.put(tx, replace(row, bundle=encode(told)))
        assert digest_of(b"patch") in referenced(tx)


@pytest.mark.slow
def test_many_are_removed_in_several_transactions(corner_shop: Shop) -> None:
    for number in range(40):
        corner_shop.put(str(number).encode())
    corner_shop.collect()
    corner_shop.pass_time(days=7)

    assert corner_shop.collect() == 40
    assert corner_shop.held() == set()
