import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from degraded_front import Front, Handler, Make, Other
from mailboat_agent.degraded.answers import Answers
from mailboat_agent.degraded.elsewhere import Elsewhere
from mailboat_agent.degraded.endpoint import Endpoint
from mailboat_agent.degraded.modes import Counts
from mailboat_agent.degraded.pressure import Gauge
from mailboat_agent.degraded.settings import LocalFallback, PressureSetting, RemoteEndpoint
from mailboat_agent.degraded.telling import Degraded
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Runtime


@pytest.fixture
def other() -> Iterator[Other]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
    found = Other(server)
    server.other = found  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    if found.hold is not None:
        found.hold.set()
    server.shutdown()
    server.server_close()
    thread.join(60)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes devices; each has its own runtime unless one is given."""
    with ExitStack() as stack:

        def front(
            *,
            remote: tuple[dict[str, Any], ...] = (),
            fallback: tuple[dict[str, Any], ...] = (),
            pressure: PressureSetting | None = None,
            runtime: Runtime | None = None,
            request_seconds_max: float = 5,
        ) -> Front:
            used = runtime
            if used is None:
                used = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
                stack.callback(used.close)
            settings = [RemoteEndpoint.model_validate(each) for each in remote]
            fallbacks = [LocalFallback.model_validate(each) for each in fallback]
            rng = random.Random(1)
            counts, gauge = Counts(), Gauge(pressure or PressureSetting(), tmp_path / "sys")
            answers = Answers(
                used,
                elsewhere=Elsewhere(
                    [Endpoint(each, rng) for each in settings], is_barred=used.is_barred
                ),
                fallbacks={each.model: each for each in fallbacks},
                counts=counts,
                gauge=gauge,
            )
            gateway = stack.enter_context(
                Gateway(used, answering=answers, request_seconds_max=request_seconds_max)
            )
            degraded = Degraded(answers, counts, gauge)
            stack.callback(degraded.close)
            return Front(used, gateway, degraded, gauge)

        yield front
