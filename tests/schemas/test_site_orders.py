"""A site's own order: who may sign one, what it may say, and what it never leads to."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError
from securesystemslib.signer import CryptoSigner

from mailboat_controller.authority.online import seal
from mailboat_schemas.codec import encode
from mailboat_schemas.device_orders import Hold, Pin
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.documents.site_key import SITE_KEYS_MAX, SiteKey
from mailboat_schemas.eligibility_facts import DeviceFacts
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.errors import MailboatError, MalformedPayload, PayloadTooLarge, WrongFleet
from mailboat_schemas.policy_rules import PolicyRule, rules_for
from mailboat_schemas.site_orders import (
    ITEMS_MAX,
    LASTS_DAYS_MAX,
    OpenedOrder,
    ReportedSiteOrder,
    SiteOrder,
    SiteOrderElsewhere,
    SiteOrderKey,
    goes_back,
    open_site_order,
)
from site_orders import SITE, SiteDesk, site_policy
from trust_fleet import FLEET

NOW = datetime.now(UTC)
SECONDS = int(NOW.timestamp())
LATER = SECONDS + 3600


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SiteDesk:
    return SiteDesk(tmp_path_factory.mktemp("desk"))


def keys(*desks: SiteDesk, days: float = 300) -> tuple[SiteKey, ...]:
    return site_policy(*desks, days=days).spec.site_keys


def opened(payload: bytes, desk: SiteDesk, **changes: Any) -> OpenedOrder:
    where = {"fleet": FLEET, "site": SITE, "now": NOW, **changes}
    return open_site_order(payload, keys(desk), **where)


def test_an_order_by_a_key_that_the_policy_names_is_opened(desk: SiteDesk) -> None:
    found = opened(desk.signed(3, desk.hold()), desk)

    assert found.order.counter == 3
    assert found.key.key.name == "harbour master"


def test_a_key_that_the_policy_does_not_name_orders_nothing(desk: SiteDesk, tmp_path: Path) -> None:
    stranger = SiteDesk(tmp_path, "stranger")

    with pytest.raises(SiteOrderKey):
        opened(stranger.signed(9, stranger.hold()), desk)


def test_a_key_orders_nothing_after_its_end(desk: SiteDesk) -> None:
    payload = desk.signed(9, desk.hold())
    named = keys(desk, days=1)

    for now, good in ((desk.now, True), (desk.now + timedelta(days=1, seconds=1), False)):
        if good:
            assert open_site_order(payload, named, fleet=FLEET, site=SITE, now=now)
        else:
            with pytest.raises(SiteOrderKey):
                open_site_order(payload, named, fleet=FLEET, site=SITE, now=now)


def test_another_kind_of_message_by_the_sites_key_is_no_order(desk: SiteDesk) -> None:
    content = encode(desk.order(1, desk.hold()))

    with pytest.raises(SiteOrderKey):
        opened(seal(desk.signer, PayloadType.DEVICE_DESIRED, content), desk)


def test_another_sites_order_and_another_fleets_are_refused(desk: SiteDesk) -> None:
    with pytest.raises(SiteOrderElsewhere):
        opened(desk.signed(1, desk.hold(), site="depot"), desk)
    with pytest.raises(WrongFleet):
        opened(desk.signed(1, desk.hold(), fleet="other"), desk)


def test_what_somebody_changed_is_refused(desk: SiteDesk) -> None:
    payload = desk.signed(1, desk.hold())

    with pytest.raises(MailboatError):
        opened(payload.replace(b"a storm", b"a Storm"), desk)


def test_an_order_is_bounded_in_time_and_number(desk: SiteDesk) -> None:
    last = desk.hold(hours=24 * LASTS_DAYS_MAX)
    assert desk.order(1, last.model_copy(update={"expires": desk.until(24 * LASTS_DAYS_MAX)}))

    with pytest.raises(ValidationError, match="14 days at most"):
        desk.order(1, desk.hold(hours=24 * LASTS_DAYS_MAX + 1))
    assert desk.order(1, *[desk.hold()] * ITEMS_MAX)
    with pytest.raises(ValidationError):
        desk.order(1, *[desk.hold()] * ITEMS_MAX, desk.rollback("1.0.0"))
    with pytest.raises(ValidationError, match="two rollbacks"):
        desk.order(1, desk.rollback("1.0.0"), desk.rollback("1.1.0"))


def test_the_largest_order_that_holds_goes_on_the_wire() -> None:
    desk_time = SECONDS + 60
    item = {"reason": "r" * 256, "expires": desk_time, "model": "m" * 63}
    order = SiteOrder.model_validate(
        {
            "fleet": "f" * 63,
            "site": "s" * 63,
            "counter": (1 << 63) - 1,
            "issued": SECONDS,
            "holds": [item] * ITEMS_MAX,
        }
    )

    assert len(encode(order)) < SiteOrder.wire_bytes_max


@pytest.mark.parametrize("size", [1 << 19, 1 << 22])
def test_more_bytes_than_an_envelope_may_have_are_not_read(desk: SiteDesk, size: int) -> None:
    with pytest.raises(PayloadTooLarge):
        opened(b"\x80" * size, desk)


@pytest.mark.parametrize("reason", ["", "\x1b[2J", "two\nlines", "\u202eabc", "r" * 257])
def test_a_reason_that_would_move_a_terminal_is_none(desk: SiteDesk, reason: str) -> None:
    item = desk.hold().model_dump() | {"reason": reason}

    with pytest.raises(ValidationError):
        desk.order(1, holds=[item])
    said = {"site": SITE, "counter": 1, "key": "desk", "holds": [item]}
    with pytest.raises(ValidationError):
        ReportedSiteOrder.model_validate(said)


def test_bytes_that_are_no_order_under_a_good_signature_are_refused(desk: SiteDesk) -> None:
    with pytest.raises(MalformedPayload):
        opened(seal(desk.signer, PayloadType.SITE_ORDER, b"\x80"), desk)


def test_an_order_ends_by_itself_and_by_the_clock_of_who_took_it(desk: SiteDesk) -> None:
    found = opened(desk.signed(1, desk.hold(hours=2), desk.rollback("1.0.0", hours=24)), desk)

    said = found.standing(NOW + timedelta(hours=3), taken_at=SECONDS)
    assert (said.holds, [each.version for each in said.rollbacks]) == ((), ["1.0.0"])
    # The site's clock was a year ahead: the device counts from when it took it.
    early = SECONDS - 365 * 86_400
    there = datetime.fromtimestamp(early, UTC)
    assert found.standing(there, taken_at=early).holds
    assert not found.standing(there + timedelta(days=LASTS_DAYS_MAX), taken_at=early).holds


@pytest.mark.parametrize(
    ("version", "running", "may"),
    [
        ("1.0.0", "1.1.0", True),
        ("1.1.0", "1.1.0", True),
        ("1.1.1", "1.1.0", False),
        ("1.10.0", "1.9.0", False),
        ("1.1.0-zz.a", "1.1.0", False),
    ],
)
def test_an_order_never_leads_forward(version: str, running: str, may: bool) -> None:
    assert goes_back(version, running) is may


def facts(**changes: Any) -> DeviceFacts:
    return DeviceFacts(
        device="dev-1",
        hardware_class="kiosk",
        enrolment_number=1,
        runtime_version="1.20.0",
        providers=frozenset(),
        memory_budget_bytes=0,
        disk_free_bytes=0,
        **changes,
    )


HOLD = Hold(by="operator:ana", reason="r", expires=LATER)
SITE_HOLD = Hold(by="site harbour (x)", reason="a storm", expires=LATER)
SITE_PIN = Pin(by="s", reason="r", expires=LATER, model="vad", version="1.0.0", digest="a" * 64)


def test_what_the_centre_orders_for_a_model_of_a_device_goes_before_its_site() -> None:
    pin = SITE_PIN.model_copy(update={"digest": "b" * 64, "by": "operator:ana"})
    both = facts(pins=(pin,), site_pins=(SITE_PIN,), site_holds=(SITE_HOLD,))

    assert both.pin_of("vad", NOW) == pin
    assert both.hold_of("vad", "b" * 64, NOW) is None
    assert both.hold_of("kws", "c" * 64, NOW) == SITE_HOLD
    held = facts(holds=(HOLD,), site_pins=(SITE_PIN,), site_holds=(SITE_HOLD,))
    assert held.hold_of("vad", "a" * 64, NOW) == HOLD
    assert (held.centre_holds("vad", NOW), facts().centre_holds("vad", NOW)) == (True, False)


def test_what_the_centre_ordered_counts_until_it_ends() -> None:
    over = HOLD.model_copy(update={"expires": SECONDS - 1})

    assert facts(holds=(over,), site_pins=(SITE_PIN,)).pin_of("vad", NOW) == SITE_PIN


def test_a_site_does_not_hold_a_device_back_from_what_it_rolls_it_back_to() -> None:
    ordered = facts(site_holds=(SITE_HOLD,), site_pins=(SITE_PIN,))

    assert ordered.hold_of("vad", "a" * 64, NOW) is None
    assert ordered.hold_of("vad", "f" * 64, NOW) == SITE_HOLD


def test_only_a_policy_for_a_site_names_keys_of_one(desk: SiteDesk) -> None:
    content = site_policy(desk).model_dump(mode="json", by_alias=True, exclude_unset=True)
    content["metadata"] |= {"level": "class", "target": "kiosk-x86"}

    with pytest.raises(ValidationError, match="only a Policy for one site"):
        PolicyDocument.model_validate(content)


def test_a_policy_may_be_for_its_keys_alone_but_not_for_nothing(desk: SiteDesk) -> None:
    content = site_policy(desk).model_dump(mode="json", by_alias=True, exclude_unset=True)
    del content["spec"]["rules"]
    assert PolicyDocument.model_validate(content).spec.site_keys

    with pytest.raises(ValidationError, match="at least one rule"):
        PolicyDocument.model_validate(content | {"spec": {}})


def test_signed_keys_are_read_back_as_they_were_written(desk: SiteDesk) -> None:
    document = site_policy(desk)

    assert PolicyDocument.parse(document.canonical_bytes()) == document


@pytest.mark.parametrize(
    "change",
    [
        {"keyid": "0" * 64},
        {"keytype": "ecdsa"},
        {"scheme": "ecdsa-sha2-nistp256"},
        {"keytype": "rsa"},
        {"keyval": {"public": "00" * 32}},
        {"x-mailboat-name": "two\nlines"},
        {"x-mailboat-name": ""},
    ],
)
def test_a_key_that_is_not_what_its_id_says_is_refused(
    desk: SiteDesk, change: dict[str, Any]
) -> None:
    given = desk.public()

    with pytest.raises(ValidationError):
        SiteKey.model_validate(given | {"key": given["key"] | change})


def test_a_site_has_few_keys_and_none_twice(desk: SiteDesk) -> None:
    with pytest.raises(ValidationError, match="twice"):
        site_policy(desk, desk)
    with pytest.raises(ValidationError):
        site_policy(*[desk] * (SITE_KEYS_MAX + 1))


def test_a_policy_holds_whom_the_first_rule_that_speaks_of_it_holds() -> None:
    rules = (
        PolicyRule(devices="ring=canary", hold=""),
        PolicyRule(devices="site=harbour", hold="inventory"),
        PolicyRule(days_between=3),
    )

    def held(site: str, ring: str) -> str:
        return rules_for(
            rules, device="d", hardware_class="c", site=site, labels={"ring": ring}
        ).hold

    assert (held("harbour", "stable"), held("harbour", "canary")) == ("inventory", "")
    assert held("depot", "stable") == ""


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=["P-256", "P-384"])
def test_a_key_on_a_token_signs_orders_as_well(desk: SiteDesk, curve: ec.EllipticCurve) -> None:
    signer = CryptoSigner(ec.generate_private_key(curve))
    public = {**signer.public_key.to_dict(), "x-mailboat-name": "token"}
    expires = NOW + timedelta(days=1)
    named = SiteKey.model_validate(
        {"key": {"keyid": signer.public_key.keyid, **public}, "expires": expires.isoformat()}
    )
    payload = seal(signer, PayloadType.SITE_ORDER, encode(desk.order(1, desk.hold())))

    found = open_site_order(payload, [named], fleet=FLEET, site=SITE, now=NOW)
    assert found.key.key.name == "token"
