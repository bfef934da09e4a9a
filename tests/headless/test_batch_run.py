"""Placing rows on workers, retries, time limits; workers are made up here."""

from types import SimpleNamespace

import pytest
from talking_portrait.headless import batch_run
from talking_portrait.headless.batch_folder import JOURNAL_FILE, Journal, open_batch_folder
from talking_portrait.headless.batch_jobs import JobRow
from talking_portrait.headless.batch_run import Batch, BatchError, BatchParameters, Placement
from talking_portrait.headless.batch_worker import BROKEN, CANCELLED, DONE, EVENT, FAILED, READY, REFUSED
from talking_portrait.headless.batch_workers import LOST, WorkerMessage
from talking_portrait.headless.batch_workflow import BatchJob
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.preparation import PreparedWorkflow

SMALL, LARGE, OTHER = (frozenset({name}) for name in ("small", "large", "other"))


def job(number, models=SMALL, name=None):
    row = JobRow(number, number + 1, name or f"row{number}", {"seed": number})
    return BatchJob(row, {}, key=f"key{number}", models=models)


class TestPlacement:
    def order(self, jobs, has=frozenset()):
        placement, numbers = Placement(jobs), []
        while placement:
            following = placement.next_for(has)
            has = following.models
            numbers.append(following.row.number)
        return numbers

    def test_rows_with_the_models_that_are_there_come_first(self):
        jobs = [job(1, SMALL), job(2, LARGE), job(3, SMALL), job(4, LARGE)]
        assert self.order(jobs, LARGE) == [2, 4, 1, 3]

    def test_more_models_in_common_is_better(self):
        jobs = [job(1, SMALL), job(2, SMALL | LARGE), job(3, OTHER)]
        assert self.order(jobs, SMALL | LARGE)[0] == 2

    def test_a_free_worker_leaves_models_that_another_has_to_it(self):
        placement = Placement([job(1, SMALL), job(2, SMALL), job(3, LARGE)])
        assert placement.next_for(frozenset(), [SMALL]).row.number == 3
        assert placement.next_for(frozenset(), [SMALL]).row.number == 1

    def test_the_largest_group_is_begun_first(self):
        assert self.order([job(1, SMALL), job(2, LARGE), job(3, LARGE)]) == [2, 3, 1]

    def test_what_is_put_back_comes_next(self):
        placement = Placement([job(1), job(2)])
        placement.put_back(placement.next_for(frozenset()))
        assert [placement.next_for(frozenset()).row.number for _ in range(2)] == [1, 2]
        assert not placement


def prepared(job):
    if job.row.name == "vanished":
        raise WorkflowError("the picture is gone")
    return PreparedWorkflow({})


class MadeUpWorker:
    """Answers orders by a script: {row name: list of what happens, one per attempt}."""

    def __init__(self, number, inbox, script, starts=True):
        self.number, self.place, self.pid = number, "here", 100 + number
        self.inbox, self.script, self.ended, self.rows = inbox, script, False, []
        self.say(READY) if starts else self.say(LOST, error="no memory")

    def say(self, kind, **data):
        self.ended = kind == LOST
        self.inbox.put(WorkerMessage(self, kind, data))

    def begin(self, order):
        name = order.output.name.rpartition(".")[0]
        self.rows.append(name)
        what = self.script.get(name, [])
        what = what.pop(0) if what else "write"
        (order.output / "half.txt").write_text("half")
        if what == "write":
            self.say(EVENT, event="executing", data={"node": "2"})
            self.say(DONE, saved=["half.txt"], seconds=0.5)
        elif what == "lost":
            self.say(LOST, error="killed")
        elif what != "hang":
            self.say(FAILED, reason=what, error=f"{what}!", traceback="...")
        self.waits = what == "hang"

    def cancel(self):
        if "deaf" not in self.script:
            self.say(FAILED, reason=CANCELLED, error="cancelled")

    def end(self):
        if not self.ended:
            self.say(LOST, error="ended")

    let_go = end


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run rows on made-up workers; return the batch, its events and workers."""
    monkeypatch.setattr(batch_run, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(batch_run, "CANCEL_GRACE", 0.05)

    def once(jobs, script=None, starts=lambda number, count: True, **parameters):
        events, workers = [], []

        def start(number, inbox):
            worker = MadeUpWorker(number, inbox, script or {}, starts(number, len(workers)))
            workers.append(worker)
            return worker

        workflow = SimpleNamespace(prepared=prepared, input_folder=None)
        with open_batch_folder(tmp_path / "out") as folder:
            batch = Batch(
                folder,
                workflow,
                start,
                BatchParameters(**parameters),
                lambda event, data: events.append((event, data)),
            )
            outcome = SimpleNamespace(
                batch=batch, events=events, workers=workers, path=folder.path, error=None
            )
            try:
                batch.run(jobs)
            except BatchError as error:
                outcome.error = error
            assert not list(folder.unfinished.iterdir())
        outcome.statuses = {n: result.status for n, result in sorted(batch.results.items())}
        assert all(worker.ended or worker.number not in batch._workers for worker in workers)
        return outcome

    return once


def test_rows_are_done_and_in_place(run):
    outcome = run([job(1), job(2)])
    assert outcome.statuses == {1: "done", 2: "done"}
    assert (outcome.path / "row1" / "half.txt").exists()
    assert outcome.batch.results[1].files == ("half.txt",)
    assert outcome.batch.results[1].seconds == 0.5
    assert [event for event, _ in outcome.events] == ["row_started", "executing", "row_finished"] * 2
    assert outcome.events[1][1] == {"node": "2", "name": "row1"}


def test_not_more_workers_than_rows(run):
    assert len(run([job(1), job(2)], workers=5).workers) == 2


def test_workers_keep_to_their_models(run):
    jobs = [job(n, LARGE if n % 2 else SMALL) for n in range(1, 9)]
    outcome = run(jobs, workers=2)
    assert sorted(len({int(name[3:]) % 2 for name in worker.rows}) for worker in outcome.workers) == [1, 1]


@pytest.mark.parametrize(("reason", "status"), [(BROKEN, "failed"), (REFUSED, "refused")])
def test_a_bad_row_does_not_stop_the_rest_and_is_not_begun_again(run, reason, status):
    outcome = run([job(1), job(2), job(3)], {"row2": [reason]})
    assert outcome.statuses == {1: "done", 2: status, 3: "done"}
    assert outcome.batch.results[2].error == f"{reason}!"
    assert outcome.batch.results[2].attempts == 1
    assert not (outcome.path / "row2").exists()
    assert len(outcome.workers) == 1


def test_a_row_that_cannot_be_prepared_any_more_does_not_stop_the_rest(run):
    outcome = run([job(1, name="vanished"), job(2)])
    assert outcome.statuses == {1: "refused", 2: "done"}
    assert outcome.batch.results[1].error == "the picture is gone"


def test_a_row_whose_worker_is_lost_is_begun_again_on_another(run):
    outcome = run([job(1), job(2)], {"row1": ["lost", "lost"]}, retries=2)
    assert outcome.statuses == {1: "done", 2: "done"}
    assert outcome.batch.results[1].attempts == 3
    assert len(outcome.workers) == 3
    assert [data["attempt"] for event, data in outcome.events if event == "row_retried"] == [1, 2]


def test_a_row_that_kills_its_workers_is_given_up(run):
    outcome = run([job(1), job(2)], {"row1": ["lost"] * 5}, retries=1)
    assert outcome.statuses == {1: "worker lost", 2: "done"}
    assert outcome.batch.results[1].attempts == 2
    assert "killed (2 attempts)" in outcome.batch.results[1].error


def test_a_row_over_its_time_is_stopped_and_its_worker_kept(run):
    outcome = run([job(1), job(2)], {"row1": ["hang"]}, time_limit=0.05)
    assert outcome.statuses == {1: "too long", 2: "done"}
    assert "0.05 s" in outcome.batch.results[1].error
    assert len(outcome.workers) == 1


def test_a_time_limit_longer_than_clocks_count(run):
    assert run([job(1)], time_limit=1e300).statuses == {1: "done"}


def test_a_row_that_does_not_stop_ends_its_worker_and_is_not_begun_again(run):
    outcome = run([job(1), job(2)], {"row1": ["hang"], "deaf": []}, time_limit=0.05)
    assert outcome.statuses == {1: "too long", 2: "done"}
    assert len(outcome.workers) == 2


def test_workers_that_never_start_end_the_batch(run):
    outcome = run([job(1)], starts=lambda number, count: False)
    assert "no worker starts: no memory" in str(outcome.error)
    assert outcome.statuses == {}
    assert len(outcome.workers) == batch_run.FAILED_STARTS


def test_a_worker_that_does_not_start_leaves_its_rows_to_others(run):
    outcome = run([job(1), job(2), job(3)], starts=lambda number, count: number == 1, workers=2)
    assert set(outcome.statuses.values()) == {"done"}


def test_a_worker_may_start_late(run):
    assert run([job(1)], starts=lambda number, count: count == 2).statuses == {1: "done"}


def test_what_is_interrupted_ends_all_workers_and_keeps_what_is_done(tmp_path):
    workers = []

    def start(number, inbox):
        workers.append(MadeUpWorker(number, inbox, {}))
        return workers[-1]

    def interrupt(event, data):
        if event == "row_started" and data["name"] == "row2":
            raise KeyboardInterrupt

    workflow = SimpleNamespace(prepared=prepared, input_folder=None)
    with open_batch_folder(tmp_path) as folder:
        batch = Batch(folder, workflow, start, BatchParameters(), interrupt)
        with pytest.raises(KeyboardInterrupt):
            batch.run([job(1), job(2)])
    assert {n: result.status for n, result in batch.results.items()} == {1: "done"}
    assert all(worker.ended for worker in workers)
    assert not (tmp_path / ".unfinished").exists()


def test_failures_are_in_the_journal(run):
    outcome = run([job(1)], {"row1": [BROKEN]})
    entry = Journal(outcome.path / JOURNAL_FILE).entries()[-1]
    assert (entry["state"], entry["status"], entry["error"]) == ("failed", "failed", "broken!")
