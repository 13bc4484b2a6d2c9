import pytest

from studio import Settings
from studio.doctor import examine


def test_a_sound_installation_is_fine(settings: Settings) -> None:
    findings = examine(settings)

    assert [finding for finding in findings if not finding.is_fine] == []
    assert {"torch", "sqlite", "device", "outputs", "database", "models", "server", "exposure", "telemetry"} <= {
        finding.name for finding in findings
    }


def test_what_needs_care_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"no database" * 1000)
    exposed = settings.model_copy(update={"host": "0.0.0.0", "default_model": "gone"})

    troubled = {finding.name: finding.text for finding in examine(exposed) if not finding.is_fine}

    assert set(troubled) == {"database", "models", "exposure", "telemetry"}
    assert "without a password" in troubled["exposure"]
    assert "GRADIO_ANALYTICS_ENABLED" in troubled["telemetry"]
