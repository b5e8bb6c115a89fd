"""``mailboat explain``: why a device runs what it runs, check by check."""

from typing import Annotated, Any

import typer

from mailboat_controller.cli import options, output

_MARKS = {True: "yes", False: "no", None: "?"}


def explain(
    device: options.DeviceName,
    model: options.OneModel = None,
    release: Annotated[
        str | None,
        typer.Option("--release", help="A release to ask about besides: 1.2.0 or vad@1.2.0."),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Why a device runs what it runs, and not something newer."""
    if release is not None and "@" in release:
        named, _, release = release.partition("@")
        if model not in (None, named):
            raise typer.BadParameter(f"--model says {model}", param_hint="--release")
        model = named
    if release is not None and model is None:
        raise typer.BadParameter("say of which model: vad@1.2.0", param_hint="--release")
    with options.client(connection) as client:
        found = client.get(f"/v1/devices/{device}/explain", model=model, release=release)
    if as_json:
        output.show_json(found)
        return
    for line in lines(found):
        print(output.plain_text(line))


def lines(found: dict[str, Any]) -> list[str]:
    """The answer for people."""
    age = found["report_age_seconds"]
    reported = "has not reported yet" if age is None else f"reported {spoken_age(age)} ago"
    said = [
        f"device    {found['device']}, class {found['hardware_class']}, site {found['site']}",
        f"presence  {found['presence']}, {reported}",
        f"manifest  {found['manifest_counter'] or 'none yet'}"
        + (
            ""
            if found["manifest_answered"] >= found["manifest_counter"]
            else f"; its report answers {found['manifest_answered'] or 'none'}"
        ),
    ]
    said += ["revoked   it installs nothing any more"] if found["revoked"] else []
    for each in found["overrides"]:
        what = f" {each['model']}" if each["model"] else ""
        what += f" {each['version']}" if each["version"] else ""
        heard = "confirmed by the device" if each["confirmed"] else "not confirmed by it yet"
        until = f"until {each['expires_at']} by {each['by']}: {each['reason']}"
        said.append(f"{each['kind']:<9} {what.strip() or 'every model'} {until} ({heard})")
    for model in found["models"]:
        said += ["", *_model(model)]
    return said


def _model(model: dict[str, Any]) -> list[str]:
    said = [f"model     {model['model']}: runs {model['serving'] or 'nothing'}"]
    said += [f"  stale: {each}" for each in model["stale"]]
    for release in model["releases"]:
        said.append(f"  {release['version']} ({release['role']}): {_verdict(release['eligible'])}")
        if release.get("emergency"):
            said.append(f"    emergency: {release['emergency']}")
        for check in release["checks"]:
            mark = "NO <-" if check["first_no"] else _MARKS[check["passed"]]
            old = check["evidence_age_seconds"]
            age = f", {spoken_age(old)} old" if check["evidence_at"] else ""
            evidence = f"{check['because']}  [{check['source']}{age}]"
            said.append(f"    {mark:<5} {check['name']:<16} {evidence}")
    towards = model["next"] in ("takes", "fetches", "unknown", "installs")
    target = f" {model['next_version']}" if towards else ""
    said.append(f"  so it {_NEXT[model['next']]}{target}: {model['because']}")
    return said


_NEXT = {
    "stays": "stays as it is",
    "takes": "takes",
    "installs": "goes on with",
    "fetches": "fetches ahead",
    "leaves": "leaves what it runs",
    "unknown": "may take",
}


def _verdict(eligible: bool | None) -> str:
    return {True: "it may run it", False: "not for this device now", None: "not all is known"}[
        eligible
    ]


def spoken_age(seconds: float) -> str:
    """One number that a person reads at a glance."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
