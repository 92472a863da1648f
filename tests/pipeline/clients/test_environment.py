"""Settings from environment variables: defaults, refusals, secrets."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from pipeline import doctor
from pipeline.cli.main import main
from pipeline.clients import bucket_setup, environment, kubernetes, s3
from pipeline.gateway import results
from pipeline.jobs import service
from steps.runtime.errors import ConfigurationError
from steps.runtime.options import JOB_OPTIONS

VARIABLES = (
    "S3_ENDPOINT",
    "S3_PUBLIC_ENDPOINT",
    "S3_BUCKET",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
DEFAULTS = ("", "", "sixview", "us-east-1", "", "")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "ARGO_TOKEN", "SIXVIEW_ID_KEY"):
        monkeypatch.delenv(name, raising=False)
    s3.client.cache_clear()


def values() -> tuple[str, ...]:
    found = environment.store().model_dump()
    secret = found.pop("aws_secret_access_key").get_secret_value()
    return (*found.values(), secret)


def test_a_variable_that_is_missing_or_empty_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert values() == DEFAULTS
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert values() == DEFAULTS


def test_variables_are_read_when_they_are_used_and_by_their_exact_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.bucket() == "sixview"
    monkeypatch.setenv("s3_bucket", "lower")
    assert s3.bucket() == "sixview"
    monkeypatch.setenv("S3_BUCKET", "mine")
    assert s3.bucket() == "mine"


@pytest.mark.parametrize(
    "url", ["http://minio:9000", "https://s3.eu-central-1.amazonaws.com", "http://[::1]:9000/path"]
)
def test_a_store_s_url_reaches_both_clients_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"S3_ENDPOINT": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    assert s3.client().meta.endpoint_url == url
    assert bucket_setup.client()._base_url.is_https == url.startswith("https")


@pytest.mark.parametrize("variable", ["S3_ENDPOINT", "S3_PUBLIC_ENDPOINT"])
@pytest.mark.parametrize(
    "text", ["minio:9000", "minio", "ftp://minio", "http://", "http://a b", "http://[::1", "http://minio:port", " "]
)
def test_what_is_no_url_is_refused_with_its_variable_s_name(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    for read in (environment.store, s3.client, s3.bucket, bucket_setup.client, lambda: results.redirect("k", "n")):
        with pytest.raises(
            ConfigurationError, match=f"{variable} cannot be used: .* Write it as https://host:port"
        ) as e:
            read()
        assert repr(text) in e.value.message and e.value.exit_code == 40


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "ARGO_TOKEN", "SIXVIEW_ID_KEY"):
        monkeypatch.setenv(name, "hidden")
    assert "hidden" not in f"{environment.store()!r} {environment.cluster()!r}"
    for text in ("minio://user:hidden@host", "minio:9000/?token=hidden", "hidden/with+a/key/of/AWS"):
        monkeypatch.setenv("S3_ENDPOINT", text)
        with pytest.raises(ConfigurationError) as error:
            environment.store()
        assert "hidden" not in str(error.value.record())


@pytest.mark.parametrize("words", [["bucket", "setup"], ["serve", "--no-auth"], ["submit", "s3://sixview/x"]])
def test_a_command_ends_with_one_sentence_and_no_traceback(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "Kubernetes", lambda namespace: None)
    monkeypatch.setattr(service, "template_parameters", lambda *_: {name: {} for name in JOB_OPTIONS})
    monkeypatch.setenv("S3_ENDPOINT", "minio:9000")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 40
    assert done.stderr.splitlines()[0] == "CONFIGURATION_ERROR"
    assert "S3_ENDPOINT cannot be used: its value, 'minio:9000'," in done.stderr and "Traceback" not in done.stderr


def test_doctor_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT", "minio:9000")
    finding = doctor._store()
    assert finding.ok is False and "S3_ENDPOINT cannot be used" in finding.what and finding.advice


def test_without_pydantic_settings_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_settings", None)
    monkeypatch.delitem(sys.modules, "pipeline.clients.environment")
    monkeypatch.delattr("pipeline.clients.environment")
    done = CliRunner().invoke(main, ["bucket", "setup"])
    assert done.exit_code == 1 and "install the extra" in str(done.exception or done.output)
