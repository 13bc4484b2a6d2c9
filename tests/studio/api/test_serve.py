import pytest

from pipelines.spec.errors import InvalidRequest
from studio import Settings
from studio.api.app import serve


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "studio.example"])
def test_an_address_that_others_can_reach_is_refused(settings: Settings, host: str) -> None:
    with pytest.raises(InvalidRequest, match="no accounts yet") as caught:
        serve(settings.model_copy(update={"host": host}))

    assert caught.value.field == "host"
    assert not settings.outputs_dir.exists()
