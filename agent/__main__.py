"""`python -m agent`: one driver's agent, started by the driver JVM."""

from agent.driver import DriverAddress
from agent.service import AgentService
from common.logs import configure
from common.service import main
from common.settings import Home, Settings


async def run() -> None:
    address = DriverAddress.from_stdin()
    home = Home.from_environment()
    settings = Settings.load(home.conf)
    configure(settings.log_level)
    await AgentService(settings, home, address).run()


if __name__ == "__main__":
    main(run)
