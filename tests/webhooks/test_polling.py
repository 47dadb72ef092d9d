"""Which operation is asked about when: bookkeeping alone, moments are given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from webhooks import PollPolicy
from webhooks.polling import AT_ONCE, JUST_ONCE, Schedule, Turn


def a_schedule(**policy: Any) -> Schedule:
    return Schedule(PollPolicy(**policy), lambda: 0.0)


def taken(schedule: Schedule, now: float) -> Turn:
    turn = schedule.take(now)
    assert turn is not None
    return turn


def test_intervals_grow_from_the_first_to_the_longest() -> None:
    policy = PollPolicy(first_after=15, growth=1.6, max_interval=60, jitter=0.2)
    assert [round(policy.interval(step, 0.0), 1) for step in range(6)] == [15.0, 24.0, 38.4, 50.0, 50.0, 50.0]
    assert [round(policy.interval(step, 1.0), 1) for step in range(6)] == [18.0, 28.8, 46.1, 60.0, 60.0, 60.0]


@given(
    first=st.floats(0.001, 1e6),
    growth=st.floats(1, 10),
    longest=st.floats(0.001, 1e6),
    jitter=st.floats(0, 1),
    step=st.integers(0, 10**9),
    chance=st.floats(0, 1),
)
def test_no_interval_is_longer_than_the_longest(
    first: float, growth: float, longest: float, jitter: float, step: int, chance: float
) -> None:
    policy = PollPolicy(first_after=first, growth=growth, max_interval=longest, jitter=jitter)
    assert 0 < policy.interval(step, chance) <= longest * (1 + 1e-9)


def test_the_longest_due_is_taken_first() -> None:
    schedule = a_schedule()
    schedule.add("thing", "late", 20.0)
    schedule.add("thing", "early", 10.0)
    assert schedule.next_at() == 10.0
    assert schedule.take(9.9) is None
    assert taken(schedule, 30.0).uid == "early"
    assert taken(schedule, 30.0).uid == "late"
    assert schedule.take(30.0) is None
    assert (schedule.flying, schedule.next_at()) == (2, None)


def test_a_turn_that_lands_comes_back_after_the_next_interval() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", schedule.first_due(0.0))
    for due, following in ((15.0, 39.0), (39.0, 77.4), (77.4, 127.4)):
        assert schedule.next_at() == pytest.approx(due)
        schedule.land(taken(schedule, due), due, wanted=True)
        assert schedule.next_at() == pytest.approx(following)


def test_a_postponed_turn_is_still_the_next() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 5.0)
    turn = taken(schedule, 5.0)
    schedule.land(turn, 6.0, wanted=True, postponed=True)
    assert taken(schedule, 6.0) == turn


def test_urgent_questions_go_ahead_of_the_routine_and_are_repeated_after_1_2_4_8_seconds() -> None:
    schedule = a_schedule()
    schedule.add("thing", "routine", 0.0)
    schedule.add("thing", "asked", 1_000.0)
    schedule.hurry("thing", "asked", 0.0, AT_ONCE)
    asked_at, now = [], 0.0
    for _ in range(5):
        turn = taken(schedule, now)
        assert (turn.uid, schedule.urgent) == ("asked", 0)
        asked_at.append(now)
        schedule.land(turn, now, wanted=True)
        now += 2.0 ** (len(asked_at) - 1)
        if len(asked_at) < 5:
            assert taken(schedule, now - 0.1).uid == "routine"
            schedule.land(Turn("thing", "routine", 0, None), 0.0, wanted=False)
            schedule.add("thing", "routine", 0.0)
    assert asked_at == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert taken(schedule, 100.0).uid == "routine"
    assert schedule.next_at() == 1_000.0


def test_an_urgent_question_that_was_postponed_keeps_its_place() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 1_000.0)
    schedule.hurry("thing", "1", 0.0, AT_ONCE)
    turn = taken(schedule, 0.0)
    schedule.land(turn, 1.0, wanted=True, postponed=True)
    assert taken(schedule, 1.0) == turn


def test_hurrying_twice_keeps_the_earlier_moment_and_the_longer_patience() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 1_000.0)
    schedule.hurry("thing", "1", 0.0, AT_ONCE)
    schedule.hurry("thing", "1", 5.0, JUST_ONCE)
    assert taken(schedule, 0.0).attempt == AT_ONCE
    schedule.land(Turn("thing", "1", 0, AT_ONCE), 0.0, wanted=True)
    schedule.hurry("thing", "1", 0.5, JUST_ONCE)
    turn = taken(schedule, 0.5)
    assert turn.attempt == 1
    assert schedule.take(2.0) is None


def test_what_is_asked_in_flight_is_asked_again_after_it() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 0.0)
    turn = taken(schedule, 0.0)
    schedule.hurry("thing", "1", 1.0, JUST_ONCE)
    schedule.hurry("thing", "1", 1.0, AT_ONCE)
    schedule.hurry("thing", "1", 1.0, JUST_ONCE)
    assert schedule.take(1.0) is None
    schedule.land(turn, 2.0, wanted=True)
    assert taken(schedule, 2.0).attempt == AT_ONCE


def test_the_routine_turn_of_what_is_being_asked_anyway_is_put_off() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 10.0)
    schedule.hurry("thing", "1", 9.0, JUST_ONCE)
    urgent = taken(schedule, 9.0)
    assert schedule.take(10.0) is None
    assert schedule.next_at() == 25.0
    schedule.land(urgent, 11.0, wanted=True)
    assert schedule.take(25.0) is None
    assert schedule.next_at() == 26.0
    assert taken(schedule, 26.0).attempt is None


def test_a_dropped_operation_is_not_taken_and_one_added_again_takes_its_place_over() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 10.0)
    schedule.add("thing", "2", 10.0)
    schedule.hurry("thing", "2", 1.0, AT_ONCE)
    schedule.drop("thing", "1")
    schedule.drop("thing", "2")
    assert schedule.take(5.0) is None
    schedule.add("thing", "1", 500.0)
    assert taken(schedule, 10.0).uid == "1"
    assert schedule.take(1_000.0) is None


def test_an_operation_dropped_and_added_in_flight_has_one_turn_afterwards() -> None:
    schedule = a_schedule()
    schedule.add("thing", "1", 0.0)
    turn = taken(schedule, 0.0)
    schedule.drop("thing", "1")
    schedule.add("thing", "1", 3.0)
    schedule.land(turn, 1.0, wanted=True)
    assert schedule.next_at() == 25.0
    schedule.land(taken(schedule, 25.0), 25.0, wanted=False)
    assert schedule.next_at() is None


def test_many_ghosts_are_passed_over_a_thousand_at_a_time() -> None:
    schedule = a_schedule()
    for number in range(2_500):
        schedule.add("thing", str(number), float(number))
        schedule.drop("thing", str(number))
    schedule.add("thing", "alive", 3_000.0)
    assert [schedule.take(4_000.0) for _ in range(2)] == [None, None]
    assert taken(schedule, 4_000.0).uid == "alive"


class ScheduleMachine(RuleBasedStateMachine):
    """However operations come, go and are hurried: each wanted one has exactly one routine place, and nothing else is taken."""

    uids = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.schedule = a_schedule(first_after=3.0, max_interval=9.0)
        self.wanted: set[str] = set()
        self.flying: list[Turn] = []
        self.now = 0.0

    @rule(uid=uids, delay=st.floats(0, 20))
    def add(self, uid: str, delay: float) -> None:
        if uid not in self.wanted:
            self.wanted.add(uid)
            self.schedule.add("thing", uid, self.now + delay)

    @rule(uid=uids)
    def drop(self, uid: str) -> None:
        if uid in self.wanted:
            self.wanted.remove(uid)
            self.schedule.drop("thing", uid)

    @rule(uid=uids, attempt=st.sampled_from([AT_ONCE, JUST_ONCE]))
    def hurry(self, uid: str, attempt: int) -> None:
        if uid in self.wanted:
            self.schedule.hurry("thing", uid, self.now, attempt)

    @rule(uid=uids)
    def wish(self, uid: str) -> None:
        if uid in self.wanted:
            self.schedule.wish("thing", uid)

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        turn = self.schedule.take(self.now)
        if turn is not None:
            assert turn.uid in self.wanted
            assert turn.uid not in [other.uid for other in self.flying]
            self.flying.append(turn)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), postponed=st.booleans())
    def land(self, data: st.DataObject, postponed: bool) -> None:
        turn = data.draw(st.sampled_from(self.flying))
        self.flying.remove(turn)
        self.schedule.land(turn, self.now, wanted=turn.uid in self.wanted, postponed=postponed)

    @invariant()
    def every_wanted_operation_has_one_place(self) -> None:
        places = [uid for _, uid, kind, _ in self.schedule._heap if (kind, uid) not in self.schedule._ghosts]
        routine = [turn.uid for turn in self.flying if turn.attempt is None and turn.uid in self.wanted]
        assert sorted(places + routine) == sorted(self.wanted)

    def teardown(self) -> None:
        for turn in self.flying:
            self.schedule.land(turn, self.now, wanted=turn.uid in self.wanted)
        asked = set()
        for _ in range(200):
            self.now += 10.0
            while (found := self.schedule.take(self.now)) is not None:
                asked.add(found.uid)
                self.schedule.land(found, self.now, wanted=True)
        assert asked == self.wanted


ScheduleMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestScheduleMachine = ScheduleMachine.TestCase
