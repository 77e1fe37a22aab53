"""What an agent believes of its driver's executors, whoever speaks of them, and how long."""

import asyncio

import pytest

from agent.executors import VANISHED_S, Executors
from common.messages import ExecutorReady
from tests.agents import StubDriver
from tests.stubs import FIRST

HEARTBEAT_S = 10.0


class StubWay:
    """A link to a dispatcher, and what it was told of executors that are not wanted."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def release(self, executor: int, reason: str) -> None:
        self.released.append(executor)


class Scene:
    """An agent's executors with two dispatchers and a clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.driver = StubDriver()
        self.executors = Executors(self.driver, HEARTBEAT_S)
        self.here, self.elsewhere = StubWay(), StubWay()

    async def ready(self, way: StubWay, attachment: int = 1, executor: int = FIRST) -> None:
        event = ExecutorReady(
            executor=executor, attachment=attachment, worker="w", host="h", port=7, slots=2
        )
        await self.executors.ready(way, event)

    async def serving(self, executor: int = FIRST) -> None:
        """It is ready by the first dispatcher, has its result stream, and gets frames."""
        self.executors.stream_opened(executor)
        await self.ready(self.here, executor=executor)
        self.executors.resume(executor)

    async def pass_s(self, seconds: float, dispatchers: int = 1, *, heard: bool = True) -> None:
        """Lets time pass, judged every second."""
        end = self.time + seconds
        while self.time < end:
            self.time = min(self.time + 1.0, end)
            if heard:
                self.executors.heard(FIRST)
            await self.executors.judge(dispatchers)

    @property
    def reason(self) -> str:
        """Why the driver was told to remove the executor, empty while it was not."""
        return self.driver.removed.get(FIRST, ("", False))[0]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    monkeypatch.setattr("agent.executors._now", lambda: made.time)
    return made


async def test_frames_flow_when_the_driver_says_resume_and_not_before(scene: Scene) -> None:
    scene.executors.resume(FIRST)
    await scene.ready(scene.here)
    assert scene.executors.ways == {}
    scene.executors.resume(FIRST)
    assert scene.executors.ways == {FIRST: scene.here}
    await scene.ready(scene.elsewhere, attachment=2)
    assert scene.executors.ways == {}, "what went by the old way is to be repeated first"
    scene.executors.resume(FIRST)
    assert scene.executors.ways == {FIRST: scene.elsewhere}
    assert scene.driver.registered == [FIRST, FIRST]


async def test_older_attachment_is_not_believed(scene: Scene) -> None:
    await scene.ready(scene.elsewhere, attachment=2)
    scene.executors.resume(FIRST)
    await scene.ready(scene.here, attachment=1)
    assert scene.executors.ways == {FIRST: scene.elsewhere}
    assert (scene.driver.registered, scene.here.released) == ([FIRST], [])


async def test_same_attachment_said_again_is_sent_again_what_may_be_lost(scene: Scene) -> None:
    await scene.serving()
    await scene.ready(scene.here)
    assert scene.driver.registered == [FIRST, FIRST]
    assert len(scene.executors) == 1


async def test_loss_is_believed_of_the_dispatcher_that_has_it(scene: Scene) -> None:
    await scene.serving()
    await scene.executors.lost(scene.elsewhere, FIRST, "silent", False)
    await scene.executors.draining(scene.elsewhere, FIRST, "leaves")
    assert (scene.reason, scene.driver.drained) == ("", [])
    await scene.executors.draining(scene.here, FIRST, "leaves")
    assert scene.driver.drained == [FIRST]
    for _ in range(2):
        await scene.executors.lost(scene.here, FIRST, "out of memory", True)
    assert scene.driver.removed == {FIRST: ("out of memory", True)}
    assert (len(scene.executors), scene.executors.ways) == (0, {})


async def test_dispatcher_that_had_it_before_cannot_lose_it(scene: Scene) -> None:
    await scene.serving()
    await scene.ready(scene.elsewhere, attachment=2)
    await scene.executors.lost(scene.here, FIRST, "its worker is lost", False)
    scene.executors.way_lost(scene.here)
    scene.executors.resume(FIRST)
    assert scene.reason == ""
    assert scene.executors.ways == {FIRST: scene.elsewhere}


async def test_executor_without_a_dispatcher_lives_while_its_results_come(scene: Scene) -> None:
    await scene.serving()
    scene.executors.way_lost(scene.here)
    assert scene.executors.ways == {}
    await scene.pass_s(HEARTBEAT_S)
    assert scene.reason == ""
    await scene.ready(scene.elsewhere, attachment=2)
    await scene.pass_s(3 * HEARTBEAT_S)
    assert (scene.reason, len(scene.executors)) == ("", 1)


async def test_executor_that_no_dispatcher_takes_over_is_given_up_in_time(scene: Scene) -> None:
    await scene.serving()
    scene.executors.way_lost(scene.here)
    await scene.pass_s(HEARTBEAT_S + 1)
    assert "no other had it" in scene.reason


async def test_while_there_is_no_dispatcher_at_all_executors_wait(scene: Scene) -> None:
    await scene.serving()
    scene.executors.way_lost(scene.here)
    await scene.pass_s(10 * HEARTBEAT_S, dispatchers=0)
    assert scene.reason == ""
    await scene.pass_s(HEARTBEAT_S)
    assert scene.reason == "", "one is there, and has its time"
    await scene.pass_s(1)
    assert "no other had it" in scene.reason


@pytest.mark.parametrize("dispatchers", [0, 1])
async def test_executor_whose_dispatcher_and_results_are_lost_is_given_up_soon(
    scene: Scene, dispatchers: int
) -> None:
    await scene.serving()
    scene.executors.stream_closed(FIRST)
    await scene.pass_s(VANISHED_S + 1, dispatchers, heard=False)
    assert scene.reason == "", "its dispatcher would say so"
    scene.executors.way_lost(scene.here)
    await scene.pass_s(VANISHED_S, dispatchers, heard=False)
    assert scene.reason == ""
    await scene.pass_s(1, dispatchers, heard=False)
    assert scene.reason == "its dispatcher and its worker are lost"


async def test_result_stream_that_is_opened_again_counts_as_one(scene: Scene) -> None:
    await scene.serving()
    scene.executors.way_lost(scene.here)
    # The end of the broken one is noticed later.
    scene.executors.stream_opened(FIRST)
    scene.executors.stream_closed(FIRST)
    await scene.pass_s(VANISHED_S + 1, heard=False)
    assert scene.reason == ""


async def test_executor_whose_results_are_silent_for_a_heartbeat_is_given_up(
    scene: Scene,
) -> None:
    await scene.serving()
    await scene.pass_s(HEARTBEAT_S, heard=False)
    assert scene.reason == ""
    await scene.pass_s(1, heard=False)
    assert scene.reason == f"its worker was silent for {HEARTBEAT_S:g} s"
    assert scene.here.released == [FIRST], "its worker may live, and is told to end it"


async def test_removed_executor_is_refused_and_released_for_ever(scene: Scene) -> None:
    await scene.serving()
    await scene.executors.lost(scene.here, FIRST, "it broke", False)
    assert scene.executors.is_removed(FIRST)
    await scene.ready(scene.elsewhere, attachment=9)
    assert scene.elsewhere.released == [FIRST]
    assert (scene.driver.registered, len(scene.executors)) == ([FIRST], 0)


@pytest.mark.parametrize("how", ["refuses", "fails"])
async def test_executor_that_the_driver_does_not_take_is_released(scene: Scene, how: str) -> None:
    getattr(scene.driver, how).add(FIRST)
    await scene.ready(scene.here)
    scene.executors.resume(FIRST)
    assert scene.here.released == [FIRST]
    assert (scene.executors.ways, scene.executors.is_removed(FIRST)) == ({}, True)


async def test_executor_that_is_lost_while_it_is_registered_is_released_once(
    scene: Scene,
) -> None:
    registering = asyncio.ensure_future(scene.ready(scene.here))
    await asyncio.sleep(0)
    await scene.executors.remove(FIRST, "silent", by_application=False)
    await registering
    assert scene.here.released == [FIRST]
    assert (len(scene.executors), scene.executors.ways) == (0, {})


async def test_inherited_executors_have_a_heartbeat_to_be_found_in(scene: Scene) -> None:
    scene.executors.inherit((FIRST, FIRST + 1))
    scene.executors.stream_opened(FIRST)
    await scene.pass_s(VANISHED_S + 1)
    assert scene.executors.is_removed(FIRST + 1), "neither a dispatcher nor a worker has it"
    assert scene.reason == ""
    await scene.ready(scene.elsewhere, attachment=3)
    scene.executors.resume(FIRST)
    assert scene.executors.ways == {FIRST: scene.elsewhere}


async def test_unreachable_executors_are_given_up_when_the_job_goes_on_inside(
    scene: Scene,
) -> None:
    await scene.serving()
    await scene.serving(FIRST + 1)
    await scene.ready(scene.elsewhere, attachment=2, executor=FIRST + 1)
    scene.executors.way_lost(scene.here)
    await scene.executors.give_up_unreachable("the pool is lost")
    assert scene.driver.removed == {FIRST: ("the pool is lost", False)}
    assert len(scene.executors) == 1


async def test_executor_that_is_lost_while_others_are_judged_is_removed_once(
    scene: Scene,
) -> None:
    for executor in (FIRST, FIRST + 1):
        await scene.serving(executor)
    scene.time += HEARTBEAT_S + 1
    judging = asyncio.ensure_future(scene.executors.judge(1))
    # It removes the first one now, which takes the driver its time.
    await asyncio.sleep(0)
    await scene.executors.lost(scene.here, FIRST + 1, "its worker left", False)
    await judging
    assert scene.driver.removed[FIRST + 1] == ("its worker left", False)
    assert len(scene.executors) == 0
