"""Asking Amazon's services through boto3, and telling a refusal from a service that is briefly away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toilfn.clusters.commands import AwayError
from toilfn.errors import ClusterError, InputError

__all__ = ["Amazon"]

_THROTTLED = ("TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded")

_CREDENTIALS = (
    "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException", "ExpiredToken",
    "AccessDeniedException", "InvalidSignatureException", "SignatureDoesNotMatch", "MissingAuthenticationToken",
)  # fmt: skip


class Amazon:
    """Clients of one account and region, made when they are needed. Credentials are those that boto3 finds.

    Parameters
    ----------
    region, profile, endpoint_url : str, optional
        Where, as whom, and for all services another address than Amazon's.
    """

    def __init__(self, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None) -> None:
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}

    def ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation of a service, once.

        Raises
        ------
        AwayError
            If there is no answer, or one that says to try again later.
        ClusterError
            If the service will not do it; carries its own words.
        InputError
            If region, profile or endpoint cannot be used.
        """
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

        try:
            answer: dict[str, Any] = getattr(self._client(service), operation)(**parameters)
            return answer
        except ClientError as error:
            raise _refusal(service, error.response) from None
        except (ConnectionError, HTTPClientError) as error:
            raise AwayError(f"AWS {service} does not answer: {error}") from None
        except NoCredentialsError as error:
            raise ClusterError(f"AWS {service}: {error}. {_credentials_hint()}") from None
        except (BotoCoreError, ValueError) as error:
            raise InputError(f"AWS {service}: {error}") from None

    def pages(self, service: str, operation: str, items: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Call an operation that answers in pages, and give the items of all."""
        token: dict[str, str] = {}
        while True:
            answer = self.ask(service, operation, **parameters, **token)
            yield from answer[items]
            if not answer.get("nextToken"):
                return
            token = {"nextToken": answer["nextToken"]}

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            import boto3
            from botocore.config import Config

            # Whether to ask again is for the caller to say: what submits a job must not be sent twice.
            config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)
            session = boto3.Session(profile_name=self._profile, region_name=self._region)
            self._clients[service] = session.client(service, endpoint_url=self._endpoint_url, config=config)
        return self._clients[service]


def _refusal(service: str, response: dict[str, Any]) -> ClusterError:
    said, status = response["Error"], response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"AWS {service} answered {said.get('Code')}: {said.get('Message')}"
    if status >= 500 or said.get("Code") in _THROTTLED:
        return AwayError(text)
    if said.get("Code") in _CREDENTIALS:
        return ClusterError(f"{text}\n{_credentials_hint()}")
    return ClusterError(text)


def _credentials_hint() -> str:
    return (
        "The leader uses the credentials that boto3 finds (AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "~/.aws, or its machine's role): give it some that may use this service."
    )
