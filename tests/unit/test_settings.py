"""Settings: what is wrong is named, what is secret is not printed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from app.settings import Settings, SettingsError, from_environment


def test_each_setting_is_read_from_its_variable() -> None:
    settings = from_environment(
        {
            "VITRINE_DATABASE_URL": "postgresql://app:pw@db/vitrine?sslmode=require",
            "VITRINE_REDIS_CLUSTER": "true",
            "VITRINE_HOME": "/srv/vitrine",
            "VITRINE_WORKERS": "3",
            "VITRINE_REQUEST_BUDGET": "0.25",
            "PATH": "/bin",
        }
    )
    assert settings.database_url == "postgresql://app:pw@db/vitrine?sslmode=require"
    assert settings.redis_cluster is True
    assert settings.home == Path("/srv/vitrine")
    assert settings.workers == 3
    assert settings.request_budget == 0.25
    assert settings.port == Settings().port


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VITRINE_PORT", "x"),
        ("VITRINE_PORT", "65536"),
        ("VITRINE_WORKERS", "0"),
        ("VITRINE_REQUEST_BUDGET", "0"),
        ("VITRINE_REDIS_CLUSTER", "perhaps"),
        ("VITRINE_LOG_LEVEL", "loud"),
        ("VITRINE_DATABASE_URL", "mysql://app:pw@db/vitrine"),
        ("VITRINE_DATABASE_URL", ""),
        ("VITRINE_REDIS_URL", "http://cache"),
        ("VITRINE_SERVED_SAMPLE_RATE", "1.5"),
        ("VITRINE_TRAIN_SCHEDULE", "daily"),
        ("VITRINE_TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.0/99"),
        ("VITRINE_EMBEDDED_METRICS", "two words"),
        ("VITRINE_NO_SUCH_THING", "1"),
    ],
)
def test_a_wrong_one_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(f"{variable}: ")


def test_all_wrong_ones_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment({"VITRINE_PORT": "x", "VITRINE_WORKERS": "-1", "VITRINE_PORTT": "1"})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "VITRINE_PORT",
        "VITRINE_PORTT",
        "VITRINE_WORKERS",
    ]


def test_passwords_are_printed_nowhere() -> None:
    urls = {
        "VITRINE_DATABASE_URL": "postgresql://app:s3cret@db/vitrine",
        "VITRINE_DATABASE_OWNER_URL": "postgresql://owner:s3cret@db/vitrine",
        "VITRINE_REDIS_URL": "redis://:s3cret@cache",
        "VITRINE_ARTEFACTS_URL": "s3://key:s3cret@bucket",
    }
    settings = from_environment(urls)
    for text in (repr(settings), str(settings), f"{settings}"):
        assert "s3cret" not in text
    with pytest.raises(SettingsError) as caught:
        from_environment(urls | {"VITRINE_DATABASE_URL": "s3cret://x", "VITRINE_PORT": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_they_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings(no_such_thing=1)  # type: ignore[call-arg]


def test_the_defaults_are_valid() -> None:
    fields = msgspec.structs.asdict(Settings())
    assert msgspec.convert({**fields}, Settings) == Settings()
