"""``mailboat trust make-key|public-key|online-keys``: making keys and handing over public ones."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid

Name = Annotated[str, typer.Option("--name", help="For people: whose it is, what for.")]


def make_key(
    out: Annotated[Path, typer.Argument(help="The private key; the public one gets .pub.")],
    name: Name = "",
    unencrypted: Annotated[
        bool, typer.Option("--unencrypted", help="Without a passphrase; for a CI's secret store.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Make an Ed25519 key: the private one stays with you, the .pub file goes to the ceremony.

    The passphrase comes from MAILBOAT_KEY_PASSPHRASE, MAILBOAT_KEY_PASSPHRASE_FILE, or is asked.
    """
    from mailboat_controller.authority.keys import create_key, new_passphrase
    from mailboat_controller.authority.public_keys import SUFFIX, write_public_key

    passphrase = None if unencrypted else new_passphrase()
    if passphrase is None and not unencrypted:
        raise ConfigurationInvalid(
            "There is no passphrase for the new key.",
            next_step="set MAILBOAT_KEY_PASSPHRASE_FILE, run it at a terminal, "
            "or say --unencrypted.",
        )
    public = out.with_name(out.name + SUFFIX)
    signer = create_key(out, passphrase=passphrase, name=name)
    write_public_key(public, signer.public_key)
    content = {
        "key": str(out),
        "public_key": str(public),
        "keyid": signer.public_key.keyid,
        "encrypted": passphrase is not None,
    }
    output.show_fields(content, as_json=as_json)


def public_key(
    key: Annotated[str, typer.Argument(help="A path, fd:N, env:NAME or pkcs11:…")],
    out: Annotated[Path, typer.Option("--out", help="The .pub file to write.")],
    name: Name = "",
    as_json: options.Json = False,
) -> None:
    """Write the public part of a key, wherever that is; for a key on a token, say."""
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.authority.public_keys import with_name, write_public_key

    public = open_signer(key).public_key
    write_public_key(out, with_name(public, name) if name else public)
    output.show_fields({"public_key": str(out), "keyid": public.keyid}, as_json=as_json)


def online_keys(
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Make the controller's next snapshot, timestamp and director keys, beside those in use.

    They sign nothing until new root and targets roles name them; then the controller changes over
    by itself.
    """
    from mailboat_controller.authority.online import ONLINE_ROLES, make_next, settle
    from mailboat_controller.authority.public_keys import SUFFIX
    from mailboat_controller.config import load
    from mailboat_controller.store import audit
    from mailboat_controller.store.engine import Store
    from mailboat_controller.trust import held_trust

    settings = load(config)
    store = Store(settings.store_url)
    try:
        with store.transaction() as tx:
            named = held_trust.named_keyids(tx)
            settle(settings.keys_dir, named)  # of the rotation before this one
            place = make_next(settings.keys_dir)
            audit.append(
                tx,
                at=options.now(),
                actor=options.local_actor(),
                action="trust.online_keys",
                subject=", ".join(ONLINE_ROLES),
                reason="new online keys were made; they sign once the metadata names them",
            )
    finally:
        store.close()
    files = [str(place / f"{role}{SUFFIX}") for role in ONLINE_ROLES]
    output.tell(
        {"public_keys": files},
        f"Take these to the ceremony: {', '.join(files)}\n"
        f"Next: mailboat trust rotate {' '.join(ONLINE_ROLES)} --to DIR --out PENDING",
        as_json=as_json,
    )
