"""The operator's command, ``mailboat``. One module a noun; heavy imports happen inside commands."""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import typer

from mailboat_controller import process_limits
from mailboat_controller.cli import (
    apply,
    artifact,
    audit,
    backup,
    completion_script,
    config_document,
    content_key,
    context,
    data,
    database,
    demo,
    device,
    device_logs,
    device_orders,
    diff,
    doctor,
    drill,
    explain,
    forms,
    get,
    gitops,
    grammar,
    hardware_class,
    help_page,
    ingest,
    mlflow,
    model,
    model_build,
    model_quantize,
    output,
    plan,
    policy_document,
    quarantine,
    rebuild,
    release,
    release_approval,
    release_build_approval,
    release_delta,
    release_diff,
    release_export,
    release_import,
    release_retire,
    releases,
    restore,
    rollout,
    simulate,
    site,
    streams,
    timeline,
    token,
    top,
    trace,
    trust,
    trust_keys,
    trust_pending,
    trust_request,
    version,
    webhook,
)
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError

app = typer.Typer(
    name="mailboat",
    help="Signed model releases for fleets that the network reaches only sometimes.",
    epilog=output.EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,  # `mailboat completion` has a better script for bash
    pretty_exceptions_enable=False,  # it would print local variables, tokens among them
)
app.callback()(version.whole_program)
app.command("version")(version.version)
app.command("init")(data.init)
app.command("serve")(data.serve)
app.command("ingest")(ingest.ingest)
app.command("help")(help_page.help_page)
app.command("completion")(help_page.completion)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
for name, command in (
    ("make-key", trust_keys.make_key),
    ("public-key", trust_keys.public_key),
    ("online-keys", trust_keys.online_keys),
    ("add-key", trust_request.add_key),
    ("remove-key", trust_request.remove_key),
    ("rotate", trust_request.rotate),
    ("threshold", trust_request.set_threshold),
    ("add-model", trust_request.add_model),
    ("renew", trust_request.renew),
    ("show", trust_pending.show),
    ("sign", trust_pending.sign),
    ("submit", trust_pending.submit),
    ("rebase", trust_pending.rebase),
):
    trust.app.command(name)(command)
app.add_typer(trust.app, name="trust")
release.app.command("approve")(release_approval.approve)
release.app.command("cosign")(release_build_approval.cosign)
release.app.command("reject")(release_approval.reject)
release.app.command("withdraw")(release_approval.withdraw)
release.app.command("export")(release_export.export)
release.app.command("import")(release_import.import_release)
release.app.command("retire")(release_retire.retire)
release.app.command("list")(releases.list_releases)
release.app.command("show")(releases.show_release)
release.app.command("delta")(release_delta.delta)
release.app.command("diff")(release_diff.diff)
release.app.command("deltas")(release_delta.deltas)
app.add_typer(release.app, name="release")
model.app.command("build")(model_build.build_model)
model.app.command("quantize")(model_quantize.quantize)
app.add_typer(model.app, name="model")
app.add_typer(artifact.app, name="artifact")
app.add_typer(content_key.app, name="content-key")
app.add_typer(config_document.app, name="config")
app.add_typer(policy_document.app, name="policy")
app.add_typer(context.app, name="context")
app.add_typer(token.app, name="token")
app.add_typer(data.credential, name="credential")
device.app.command("logs")(device_logs.logs)
device.app.command("hold")(device_orders.hold)
device.app.command("release-hold")(device_orders.release_hold)
device.app.command("pin")(device_orders.pin)
device.app.command("unpin")(device_orders.unpin)
device.app.command("label")(device_orders.label)
app.command("explain")(explain.explain)
app.command("plan")(plan.plan)
app.command("diff")(diff.diff)
app.command("apply")(apply.apply)
app.add_typer(gitops.app, name="gitops")
app.add_typer(get.app, name="get")
app.add_typer(device.app, name="device")
app.add_typer(drill.app, name="drill")
app.add_typer(site.app, name="site")
app.add_typer(hardware_class.app, name="class")
app.add_typer(rollout.app, name="rollout")
app.add_typer(audit.app, name="audit")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(database.app, name="db")
app.add_typer(webhook.app, name="webhook")
app.add_typer(mlflow.app, name="mlflow")
app.command("trace")(trace.trace)
app.command("timeline")(timeline.timeline)
app.command("backup")(backup.backup)
app.command("restore")(restore.restore)
app.command("rebuild")(rebuild.rebuild)

grammar.extend(app)
grammar.group(app)


@cache
def command_line() -> Callable[..., Any]:
    """``app``, put together once: `app()` does so each time, and one process may run many."""
    return typer.main.get_command(app)


def main() -> None:
    """Run one command; our errors become an exit code, a message and a next step."""
    process_limits.apply()
    streams.prepare()
    completion_script.prepare()
    try:
        command_line()()
    except MailboatError as error:
        _end(error)
    except OSError as error:  # a file that was named and cannot be written, for one
        if isinstance(error, BrokenPipeError):
            # Nobody reads on, and nobody would read this; nor what Python would flush at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(output.EXIT_FAILURE)
        place = f"{error.filename}: " if error.filename else ""
        _end(
            ConfigurationInvalid(
                f"{place}{error.strerror or error}.",
                next_step="check the path, its rights, and the room on that disk.",
            )
        )


def _end(error: MailboatError) -> NoReturn:
    with contextlib.suppress(OSError):  # a full disk behind `2>`; the code tells it all the same
        output.show_error(error, as_json=forms.asked_for(sys.argv[1:]) in ("json", "yaml"))
    sys.exit(output.exit_code_of(error))
