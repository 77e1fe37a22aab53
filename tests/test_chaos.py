"""The commands that look at a whole pool for minutes, and how they count."""

import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import psutil
import pytest

from tests.chaos.choices import INTERVAL_S, PAUSE_S, SIGNALS, Victim, choices
from tests.chaos.drivers import MARK, Job, Ledger, Outcome
from tests.chaos.killer import Kill, chosen
from tests.chaos.offspring import agents, lives, offspring
from tests.chaos.progress import Progress
from tests.chaos.report import RECOVERY, Report, Tasks, recovery_s
from tests.chaos.samples import Sample, slope, warm
from tests.chaos.services import Service
from tests.services import ROOT, environment, wait_for


def told(event: str, **what: object) -> str:
    return MARK + json.dumps({"event": event, "job": 1, "kind": "map", "at": 10.0, **what})


def ledger(*outcomes: Outcome) -> Ledger:
    """Of a driver whose jobs ended so."""
    filled = Ledger(driver=1)
    for outcome in outcomes:
        filled.take(told("begin"))
        filled.take(told("end", outcome=outcome, problem="", at=12.0))
    return filled


def report(jobs: list[Job]) -> Report:
    return Report(jobs, kills=[], drivers=1, reruns=0, longest_recovery_s=0.0, notes={})


def task(event: str, partition: int, reason: str = "Success", finish: int = 0) -> str:
    return json.dumps({
        "Event": f"SparkListenerTask{event}",
        "Stage ID": 3,
        "Task Info": {"Partition ID": partition, "Finish Time": finish},
        "Task End Reason": {"Reason": reason},
    })


def test_the_seed_determines_every_choice() -> None:
    one, same, other = (list(islice(choices(seed), 500)) for seed in (1, 1, 2))
    assert one == same != other
    assert {(choice.victim, choice.signal) for choice in one} == {
        (victim, number) for victim in Victim for number in SIGNALS[victim]
    }
    assert all(INTERVAL_S[0] <= choice.after_s <= INTERVAL_S[1] for choice in one)
    assert all(PAUSE_S[0] <= choice.pause_s <= PAUSE_S[1] for choice in one)


def test_every_candidate_can_be_chosen_and_none_of_none() -> None:
    assert [chosen("abc", which) for which in (0.0, 0.34, 0.99)] == ["a", "b", "c"]
    assert chosen([], 0.5) is None


@pytest.mark.parametrize("outcome", [Outcome.WRONG, Outcome.FAILED])
def test_one_job_that_is_not_right_is_counted_and_spoils_the_run(outcome: Outcome) -> None:
    made = report(ledger(Outcome.RIGHT, outcome, Outcome.RIGHT).jobs)
    assert [made.count(one) for one in (Outcome.RIGHT, outcome)] == [2, 1]
    assert not made.is_good
    assert report(ledger(Outcome.RIGHT).jobs).is_good


def test_a_run_without_jobs_is_not_good() -> None:
    assert not report([]).is_good


def test_a_driver_that_says_nothing_more_hung_in_its_job_or_beside_it() -> None:
    in_a_job = ledger(Outcome.RIGHT)
    in_a_job.take(told("begin"))
    in_a_job.give_up(Outcome.HUNG, 12.0, "silent")
    at_the_start, at_the_end = ledger(), ledger(Outcome.RIGHT)
    for silent in (at_the_start, at_the_end):
        silent.give_up(Outcome.HUNG, 12.0, "silent")

    kinds = [made.jobs[-1].kind for made in (in_a_job, at_the_start, at_the_end)]
    assert kinds == ["map", "start of driver", "end of driver"]
    assert all(
        report(made.jobs).count(Outcome.HUNG) == 1
        for made in (in_a_job, at_the_start, at_the_end)
    )


def test_lines_of_others_are_passed_over() -> None:
    filled = ledger(Outcome.RIGHT)
    filled.take("Full thread dump OpenJDK 64-Bit Server VM")
    assert len(filled.jobs) == 1
    assert not filled.is_over
    filled.take(told("over"))
    assert filled.is_over


def test_launches_beyond_the_first_are_reruns(tmp_path: Path) -> None:
    lines = [
        task("Start", 0),
        task("Start", 1),
        task("End", 0, finish=5_000),
        task("End", 1, reason="ExecutorLostFailure"),
        task("Start", 1),
        task("End", 1, finish=9_000),
        '{"Event": "SparkListenerTaskSt',
    ]
    (tmp_path / "app.inprogress").write_text("\n".join(lines))
    tasks = Tasks.of(tmp_path)
    assert (tasks.launched, tasks.rerun, tasks.finished_at) == (3, 1, [5.0, 9.0])


def test_recovery_is_the_time_to_the_next_sign_of_a_driver_with_a_job() -> None:
    tasks = Tasks(finished_at=[9.0, 11.5])
    jobs = ledger(Outcome.RIGHT).jobs
    assert recovery_s(10.5, jobs, tasks) == 1.0
    assert recovery_s(11.75, jobs, tasks) == 0.25
    assert recovery_s(9.5, jobs, tasks) == 0.0
    assert recovery_s(13.0, jobs, tasks) == 0.0


def test_slope_is_the_growth_for_100_jobs() -> None:
    rising = [(jobs, 7 + 0.03 * jobs) for jobs in range(0, 100, 10)]
    found = slope([rising])
    assert found.value == pytest.approx(3)
    assert found.exceeds(2)
    assert not found.exceeds(3.5)
    assert slope([[(jobs, 5.0) for jobs in range(10)]]).value == 0


def test_processes_share_a_slope_and_not_a_level() -> None:
    """Each of them is flat; that a later one stands higher is no growth."""
    series = [[(jobs, float(level)) for jobs in range(5)] for level in (10, 20, 30)]
    assert slope(series).value == 0
    rising = [[(jobs, level + 0.1 * jobs) for jobs in range(5)] for level in (1, 9)]
    assert slope(rising).value == pytest.approx(10)


def test_scatter_is_no_growth() -> None:
    points = [(float(jobs), 5.0 + 3 * (jobs % 2)) for jobs in range(20)]
    assert not slope([points]).exceeds(1)
    assert slope([[(0, 0), (1, 5), (2, 9)]]).exceeds(1)


def test_too_few_points_prove_nothing() -> None:
    assert not slope([]).exceeds(0)
    assert not slope([[(1, 5)]]).exceeds(0)
    assert not slope([[(1, 5), (2, 500)]]).exceeds(1)


def test_the_first_third_warms_up() -> None:
    assert warm([(jobs, 0.0) for jobs in (0, 10, 20, 30)]) == [(20, 0.0), (30, 0.0)]


def test_a_process_is_measured() -> None:
    sample = Sample.of(psutil.Process(), jobs=4)
    assert sample.memory > 1
    assert sample.descriptors > 0
    assert sample.threads > 0
    assert sample.jobs == 4


@pytest.fixture
def sleeper(tmp_path: Path) -> Service:
    """A service that does nothing, and is started again all the same."""

    def begin() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    return Service("sleeper", Victim.WORKER, begin, Progress(tmp_path / "log", verbose=False))


def test_what_was_hit_is_started_again_after_its_pause(sleeper: Service) -> None:
    first = sleeper.process
    try:
        sleeper.strike(signal.SIGKILL, pause_s=5)
        first.wait(10)
        sleeper.keep(now=100)
        sleeper.keep(now=104)
        assert (sleeper.process, sleeper.up) == (first, False)
        sleeper.keep(now=105)
        assert sleeper.process is not first
        assert sleeper.up
        assert sleeper.unasked_ends == 0
    finally:
        end(first, sleeper.process)


def test_an_end_that_nobody_asked_for_is_counted(sleeper: Service) -> None:
    first = sleeper.process
    try:
        first.communicate(timeout=10)
        sleeper.keep(now=100)
        sleeper.keep(now=200)
        assert sleeper.unasked_ends == 1
        assert sleeper.process is not first
    finally:
        end(first, sleeper.process)


def end(*processes: "subprocess.Popen[bytes]") -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_only_what_this_process_started_is_found() -> None:
    """Not its parent, nor anybody else."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        try:
            wait_for(lambda: len(offspring(child.pid)) == 1, what="a grandchild")
            found = {process.pid for process in offspring()}
            assert child.pid in found
            assert offspring(child.pid)[0].pid in found
            assert not found & {os.getpid(), os.getppid()}
        finally:
            child.communicate()


def test_the_table_shows_who_was_hit_and_how() -> None:
    kills = [Kill(0.0, Victim.REDIS, signal.SIGSTOP)]
    rows = Report([], kills, 2, 4, 1.25, {"processes left behind": 0}).rows()
    assert rows["drivers"] == "2"
    assert rows["jobs hung"] == "0"
    assert rows[RECOVERY] == "1.2 s"
    assert rows["processes left behind"] == "0"


def command(folder: Path, script: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(ROOT / "sbin" / script), *options],
        env=environment({"TMPDIR": str(folder)}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_minutes_of_chaos_cost_no_result(tmp_path: Path) -> None:
    ran = command(tmp_path, "chaos.sh", "--minutes", "2", "--seed", "7", "--verbose")
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]


@pytest.mark.slow
def test_an_interrupted_run_ends_what_it_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        ["bash", str(ROOT / "sbin" / "chaos.sh"), "--seed", "1", "--verbose"],
        env=environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        while "start   driver 1" not in running.stdout.readline():
            assert running.poll() is None
        wait_for(lambda: agents(running.pid), 60, "the driver's agent")
        started = offspring(running.pid)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "logs: " in out
    assert not [process for process in started if lives(process)]
