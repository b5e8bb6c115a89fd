"""What a site's own broker lets devices do: the content of its ``acl_file``.

The same patterns for every device, so that one which was enrolled a moment ago needs no news from
the centre. Each speaks and hears for itself alone, by the name in its certificate; one of another
site that comes here is refused at the centre, because the registry says its site. Whoever is
revoked has a section: the list of revoked certificates keeps them from connecting, the section
silences a connection that is open. The bridge needs none; mosquitto asks no rule about its own.
"""

from collections.abc import Sequence

from mailboat_schemas.topics import ROOT, SAID_BY_DEVICES, Channel, build


def access_rules(fleet: str, site: str, cut_off: Sequence[str]) -> str:
    """
    Args:
        cut_off: revoked devices of the site, by name, while their certificates have not ended.
    """
    root = f"{ROOT}/{fleet}"
    order = build(Channel.SITE_ORDER, fleet=fleet, site=site)
    here = f"{root}/site/{site}/dev/%u"
    lines = [
        f"# What devices may say and hear at the broker of site {site}. Made by the controller and",
        "# fetched by `refresh`: changes are overwritten.",
        *(f"pattern write {here}/{level}" for level in SAID_BY_DEVICES),
        f"pattern read {here}/dn/#",
        "# What the site orders its devices; who hands it in shows the bridge's certificate.",
        f"pattern read {order}",
        f"user {site}",
        f"topic write {order}",
        "# Manifests of all classes: signed, and without a secret.",
        f"pattern read {root}/class/#",
    ]
    for name in cut_off:
        lines += [f"user {name}", "topic deny #"]
    return "\n".join(lines) + "\n"
