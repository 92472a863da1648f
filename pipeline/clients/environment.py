"""Settings from environment variables: everything that `pipeline` reads from them itself; click reads those of its options.

They are read when they are used, not when a module is imported. A variable that is set to nothing counts as not set. Needs
pydantic-settings, of the extra `cluster`: `sixview run` loads nothing of this."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from steps.runtime.errors import ConfigurationError

ADVICE = "Correct the variable; in the cluster it follows from the chart's values."
Settings = TypeVar("Settings", bound=BaseSettings)


def _http_url(text: str) -> str:
    """The text, where it is empty or an http(s) URL. Raises ValueError with what is wrong."""
    try:
        url = urlsplit(text)
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        is_url = False
    if text and (not is_url or any(character.isspace() for character in text)):
        # a password may stand before an @ or after a ?, and a long word may be a key in the wrong variable
        is_secret = "@" in text or "?" in text or re.fullmatch(r"[\w+/=-]{16,}", text)
        shown = "" if is_secret else f", {ascii(text[:80])},"
        raise ValueError(f"its value{shown} is not an http:// or https:// URL. Write it as https://host:port")
    return text


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class _FromEnvironment(BaseSettings):
    """Each field's variable is its name in capital letters."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper, case_sensitive=True, env_ignore_empty=True, frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment alone: no files, and half the time."""
        return (env_settings,)


class StoreSettings(_FromEnvironment):
    """The S3 store. The two keys are here for MinIO's SDK: boto3 looks for them itself, also elsewhere, such as in a role."""

    s3_endpoint: HttpUrl = Field("", description="The store's URL; empty: AWS.")
    s3_public_endpoint: HttpUrl = Field("", description="Its URL for clients of the gateway; empty: S3_ENDPOINT.")
    s3_bucket: str = Field("sixview", description="The installation's bucket.")
    aws_region: str = Field("us-east-1", description="The bucket's region.")
    aws_access_key_id: str = Field("", description="Access key.")
    aws_secret_access_key: SecretStr = Field(SecretStr(""), description="Secret key.")


class ClusterSettings(_FromEnvironment):
    """Ways to the cluster, and the gateway's secret."""

    argo_token: SecretStr = Field(SecretStr(""), description="Bearer token for the Argo Server.")
    sixview_id_key: SecretStr = Field(SecretStr(""), description="HMAC key for Idempotency-Keys; see `jobs.ids`.")
    kubernetes_service_host: str | None = Field(None, description="Set by Kubernetes in every pod.")
    kubeconfig: str | None = Field(None, description="The kubeconfig to use, also in a pod.")


def store() -> StoreSettings:
    """The store's settings. Raises ConfigurationError."""
    return _read(StoreSettings)


def cluster() -> ClusterSettings:
    """The cluster's settings. Raises ConfigurationError."""
    return _read(ClusterSettings)


def _read(kind: type[Settings]) -> Settings:
    """An instance from the environment. Raises ConfigurationError, which names each variable that is wrong."""
    try:
        return kind()
    except ValidationError as error:
        faults = "; ".join(_sentence(fault) for fault in error.errors(include_url=False))
        raise ConfigurationError(f"{faults}.", ADVICE) from None


def _sentence(fault: Any) -> str:
    """What is wrong with a variable, without its full value, which may be a secret."""
    name = ".".join(map(str, fault["loc"]))
    return f"{name} cannot be used: {fault['msg'].removeprefix('Value error, ')}"
