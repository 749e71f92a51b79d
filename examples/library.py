"""Route without a gateway, in process: `python examples/library.py`. No key is needed, for no provider is called."""

import asyncio
from pathlib import Path

from pointsman import config, router
from pointsman.conversation import read


async def main() -> None:
    loaded = config.load(Path(__file__).with_name("assistant.yaml"), env=None)
    async with router.build(loaded) as routing:
        decision = await routing.decide(read("Draft a two-page proposal for a new bike shelter"))
    print(decision.policy, decision.model, decision.reason, f"{decision.confidence:.0%}")


asyncio.run(main())
