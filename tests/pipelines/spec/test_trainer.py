"""A plan in words."""

import pytest

from pipelines.spec.trainer import Demand, TrainingPlan

GIB = 2**30


def plan(demand: Demand | None = None, *, seconds: float | None = None) -> TrainingPlan:
    return TrainingPlan(3, 40, 2, [(128, 128, 3)], [], demand, seconds)


@pytest.mark.parametrize(
    ("made", "time"),
    [
        (plan(), "time is known after the first steps"),
        (plan(Demand(9, GIB, GIB)), "time is known after the first steps"),
        (
            plan(Demand(9, GIB, GIB, seconds=(300, 750))),
            "about 5 min to 12 min, estimated from the device's speed: this model was never trained here",
        ),
        (plan(Demand(9, GIB, GIB, seconds=(300, 750)), seconds=60), "about 60 s"),
    ],
)
def test_a_time_that_is_estimated_is_told_as_such(made: TrainingPlan, time: str) -> None:
    assert made.sentence().endswith(f"; {time}")
    assert made.sentence().startswith(f"{made.work()}")


def test_to_measured_steps_all_else_is_added_as_estimated() -> None:
    foreseen = plan(Demand(9, GIB, GIB, seconds=(300, 700), share_of_steps=0.75))

    assert foreseen.timed(60.0).seconds == 60 + 125
    assert plan().timed(60.0).seconds == plan(Demand(9, GIB, GIB)).timed(60.0).seconds == 60
    assert foreseen.timed(None) == foreseen


def test_too_little_free_memory_is_told() -> None:
    assert Demand(9, GIB, GIB).shortage() == ""
    assert Demand(9, 2 * GIB, GIB).shortage() == "only 1,024 MiB of memory are free"
