"""An agent that no network reaches, for tests of imports."""

from collections.abc import Callable, Coroutine

from agent_box import AgentBox
from mailboat_agent.carrier.pickup import Pickup
from mailboat_agent.carrier.spool import ImportSpool

Story = Callable[["Island"], Coroutine[None, None, None]]


class Island(AgentBox):
    """An agent whose controller has nothing, and which looks for imports as the real one does."""

    def start(self) -> None:
        super().start()
        self.spool = ImportSpool(self.directory)
        self.pickup = Pickup(self.spool, self.trust, self.reconciler)

    async def step(self) -> None:
        self.pickup.look(self.now())
        await super().step()
