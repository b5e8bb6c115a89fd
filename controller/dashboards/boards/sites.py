"""Where devices are, by site. A thousand sites are no thousand lines: the worst are drawn, and sums
of those that the reader chose."""

from panels import Board, bars, chart, prom

from boards.queries import OF_SITE, SITE, most, per_second, quantile, summed

_WORST = 10
_SPANS = (("3600", "an hour"), ("86400", "a day"), ("604800", "a week"))

_LINKS = (
    bars(
        "Links",
        "On while a site's bridge is connected to the central broker; those that are not first.",
        "bool_on_off",
        prom(f"bottomk({_WORST}, mailboat_site_connected{{{OF_SITE}}})", "{{site}}"),
        most=1,
    ),
    chart(
        "Cut for",
        "How long a site has been away, the longest; its policy says whether that is expected.",
        "s",
        prom(most(_WORST, f"mailboat_site_disconnected_seconds{{{OF_SITE}}}"), "{{site}}"),
    ),
    bars(
        "A cut is expected",
        "On while the site's policy expects to be cut off; alerts keep silent then.",
        "bool_on_off",
        prom(f"bottomk({_WORST}, mailboat_site_disconnect_expected{{{OF_SITE}}})", "{{site}}"),
        most=1,
    ),
)

_DEVICES = (
    chart(
        "Devices by state",
        "Of the sites chosen; of a site that is cut off devices are unknown, not offline.",
        "short",
        prom(summed("mailboat_site_devices", OF_SITE, "state"), "{{state}}"),
        stacked=True,
    ),
    chart(
        "Not heard of",
        "Devices that said nothing for at least an hour, a day, a week.",
        "short",
        *(
            prom(summed("mailboat_devices_unseen", f'seconds_min="{span}", {OF_SITE}'), name)
            for span, name in _SPANS
        ),
    ),
    bars(
        "Not heard of for a day, where",
        "The sites with most of them; - is of devices without a site.",
        "short",
        prom(
            most(_WORST, f'mailboat_devices_unseen{{seconds_min="86400", {OF_SITE}}}'), "{{site}}"
        ),
    ),
    bars(
        "Disks and clocks, where",
        "Devices with less than 512 MiB left, and those whose clock is a minute off, of those "
        "heard of in a week.",
        "short",
        prom(most(_WORST // 2, f"mailboat_devices_disk_low{{{OF_SITE}}}"), "{{site}} disk"),
        prom(most(_WORST // 2, f"mailboat_devices_clock_wrong{{{OF_SITE}}}"), "{{site}} clock"),
    ),
)

_TRAFFIC = (
    chart(
        "Requests",
        "Requests to models at the busiest sites, counted when the device's window came here.",
        "reqps",
        prom(most(_WORST, per_second("mailboat_requests_total", OF_SITE, "site")), "{{site}}"),
    ),
    chart(
        "Latency, p95",
        "Of the slowest sites, on the devices; the network to them is not in it.",
        "s",
        prom(
            most(_WORST, quantile(0.95, "mailboat_request_latency_seconds", OF_SITE, "site")),
            "{{site}}",
        ),
    ),
)

SITES = Board(
    uid="mailboat-sites",
    title="Mailboat / Sites",
    text="Where devices are: links, presence, traffic and what they fetch, by site.",
    variables=(SITE,),
    panels=(*_LINKS, *_DEVICES, *_TRAFFIC),
)
