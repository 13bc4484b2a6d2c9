"""The tables of schedulers, noise schedules and families hold together."""

import pytest

from pipelines.spec.errors import ModelError
from pipelines.spec.families import FAMILIES, family_of
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS, canonical_noise_schedule, canonical_scheduler
from pipelines.spec.values import Task

ASKED_FOR = {"euler", "euler_a", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "unipc", "heun", "lcm"}
CHOSEN = {name: label for name, label in NOISE_SCHEDULES.items() if label != "Automatic"}


def test_the_promised_schedulers_and_noise_schedules_are_there() -> None:
    assert set(SCHEDULERS) >= ASKED_FOR
    assert set(NOISE_SCHEDULES) >= {"uniform", "karras", "exponential", "sgm_uniform"}


@pytest.mark.parametrize(
    "table",
    [{name: row.label for name, row in SCHEDULERS.items()}, CHOSEN],
    ids=["schedulers", "noise schedules"],
)
def test_no_two_rows_answer_to_one_name(table: dict[str, str]) -> None:
    names = [name for name, label in table.items() for name in {name, label.lower()}]
    assert len(names) == len(set(names))
    assert all(name == name.lower().strip() for name in table)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        *((row.label, name) for name, row in SCHEDULERS.items()),
        ("k_euler_a", "euler_a"),
        ("SA Solver", "sa_solver"),
        (" euler A ", "euler_a"),
        ("dpm_2", "dpm2"),
    ],
)
def test_a_scheduler_is_known_by_older_spellings(said: str, name: str) -> None:
    assert canonical_scheduler(said) == name


@pytest.mark.parametrize("said", ["SGMUniform", "SGM Uniform", "sgm_uniform"])
def test_a_noise_schedule_is_known_by_older_spellings(said: str) -> None:
    assert canonical_noise_schedule(said) == "sgm_uniform"


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("DPM++ 2M Karras", "give DPM\\+\\+ 2M, and Karras as the noise schedule"),
        ("LMS Karras", "give LMS, and Karras as"),
        ("DPM++ 2M SDE Exponential", "give DPM\\+\\+ 2M SDE, and Exponential as"),
        ("HeunPP2 Karras", "is not known"),
    ],
)
def test_a_name_with_its_noise_schedule_is_told_apart(said: str, way_out: str) -> None:
    with pytest.raises(ValueError, match=way_out):
        canonical_scheduler(said)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_row_is_whole(name: str) -> None:
    spec = SCHEDULERS[name]
    assert spec.noise_schedule in spec.noise_schedules
    assert set(spec.noise_schedules) <= set(NOISE_SCHEDULES)
    assert spec.evaluations(20) in {None, *range(19, 41)}


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        SCHEDULERS["mine"] = SCHEDULERS["euler"]


@pytest.mark.parametrize("look_up", [canonical_scheduler, canonical_noise_schedule])
def test_an_unknown_name_lists_the_known_ones(look_up: object) -> None:
    with pytest.raises(ValueError, match=r"'nope' is not known; choose one of (euler|uniform), "):
        look_up("nope")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_found_by_each_of_its_pipelines(family: object) -> None:
    for name in family.pipeline_classes:
        assert family_of(name) is family


def test_families_share_neither_name_nor_pipeline() -> None:
    classes = [name for family in FAMILIES for name in family.pipeline_classes]
    assert len(classes) == len(set(classes))
    assert len({family.name for family in FAMILIES}) == len({family.label for family in FAMILIES}) == len(FAMILIES)
    assert all(Task.TEXT_TO_IMAGE in family.tasks and family.size_multiple % 8 == 0 for family in FAMILIES)


@pytest.mark.parametrize("name", ["FluxPipeline", "", "None", "../evil"])
def test_an_unknown_pipeline_is_a_model_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(ModelError, match=r"which no known family runs; known are .*StableDiffusionXLPipeline"):
        family_of(name)
