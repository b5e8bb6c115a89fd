"""``mailboat ingest``: one of several processes that take in what devices say."""

from typing import Annotated

import typer

from mailboat_controller.cli import options


def ingest(
    partition: Annotated[
        int, typer.Option("--partition", min=0, help="Which share of the devices, from 0 on.")
    ],
    config: options.ConfigOption = options.DEFAULT_CONFIG,
) -> None:
    """Take in what one share of the devices says, beside `mailboat serve`.

    Settings: ingest.partitions, and a PostgreSQL. A second process of one partition waits, and
    takes over when the first one ends.
    """
    import asyncio
    import contextlib
    import signal

    from mailboat_controller import plain_log

    plain_log.load()  # before others load it with all there is
    from mailboat_controller import garbage, logs
    from mailboat_controller.config import load
    from mailboat_controller.ingest.process import take_in

    settings = load(config)

    async def until_stopped() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stopped.set)
        await take_in(settings, partition, now=options.now, stopped=stopped)

    logs.configure(settings.log_format)
    garbage.settle()
    asyncio.run(until_stopped())
