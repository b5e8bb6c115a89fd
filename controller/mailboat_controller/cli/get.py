"""``mailboat get``: every list in one place. Each is the `list` of its own noun, nothing else."""

from collections.abc import Callable

import typer

from mailboat_controller.cli import (
    content_key,
    device,
    drill,
    hardware_class,
    output,
    quarantine,
    releases,
    rollout,
    site,
    token,
    webhook,
)

app = typer.Typer(
    help="List devices, releases, rollouts, sites, classes and whatever else has a list.",
    epilog=output.examples(
        "mailboat get devices --running vad@1.2.0 -l 'site in (harbour,depot)'",
        "mailboat get devices -l 'class=kiosk-x86,presence=offline,region!=eu' -o name",
        "mailboat get rollouts --watch",
    ),
    no_args_is_help=True,
)
_LISTS: dict[str, Callable[..., None]] = {
    "devices": device.list_devices,
    "releases": releases.list_releases,
    "rollouts": rollout.list_rollouts,
    "sites": site.list_sites,
    "classes": hardware_class.list_classes,
    "drills": drill.list_drills,
    "webhooks": webhook.list_webhooks,
    "tokens": token.list_tokens,
    "content-keys": content_key.list_keys,
    "quarantine": quarantine.list_messages,
}
for _noun, _command in _LISTS.items():
    app.command(_noun)(_command)
