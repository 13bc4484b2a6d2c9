"""Every error answer is a Problem."""

import pytest
from fastapi.testclient import TestClient

from studio.api.errors import Problem


@pytest.mark.parametrize(("method", "path", "status"), [("PUT", "/api/v1/jobs", 405), ("GET", "/api/v1/gone", 404)])
def test_what_the_framework_refuses_is_a_problem_too(method: str, path: str, status: int, client: TestClient) -> None:
    answer = client.request(method, path)

    assert answer.status_code == status
    assert set(answer.json()) == set(Problem.model_fields)
    assert ("allow" in answer.headers) == (status == 405)
