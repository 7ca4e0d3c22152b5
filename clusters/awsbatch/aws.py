"""A client for AWS services that distinguishes refusals from temporary outages, through botocore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toilfn.clusters.common.commands import SET_CLOCK, CredentialsError, UnavailableError, clock_hint
from toilfn.errors import ClusterError, InputError

__all__ = ["Amazon", "AmazonRefusalError"]

_THROTTLED = ("TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded")

_CREDENTIALS = (
    "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException", "ExpiredToken",
    "InvalidSignatureException", "SignatureDoesNotMatch", "MissingAuthenticationToken", "AuthFailure",
)  # fmt: skip
_FORBIDDEN = ("AccessDeniedException", "AccessDenied", "UnauthorizedOperation")
_CLOCK = ("RequestExpired", "RequestTimeTooSkewed")
_OTHER_TIME = ("Signature expired", "Signature not yet current")
"""Messages that the time of a request is wrong. Some services send them with the error code of wrong credentials."""
_TAKEN = (
    "EntityAlreadyExists", "InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate",
    "InvalidLaunchTemplateName.AlreadyExistsException", "ResourceInUseException",
)  # fmt: skip
_QUOTA = ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "LimitExceeded")


class AmazonRefusalError(ClusterError):
    """A service refused a request.

    Attributes
    ----------
    code : str
        The error code of the service, such as ``"DependencyViolation"``.
    """

    def __init__(self, message: str, code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class Amazon:
    """Clients for one account and region, created on demand, with the credentials that botocore finds.

    Parameters
    ----------
    region, profile, endpoint_url : str, optional
        The region, the profile, and a URL to use for all services instead of Amazon's.
    """

    def __init__(self, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None) -> None:
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}

    def ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation of a service, without retries.

        Raises
        ------
        UnavailableError
            If there is no answer, or a temporary failure, or the credentials were rejected.
        ClusterError
            If the service refuses the request. The error quotes its message.
        InputError
            If the region, the profile or the endpoint is invalid.
        """
        try:
            from botocore.exceptions import (
                BotoCoreError,
                ClientError,
                ConnectionError,
                CredentialRetrievalError,
                HTTPClientError,
                NoCredentialsError,
                NoRegionError,
                SSOError,
            )
        except ImportError as error:
            raise ClusterError(f"AWS needs optional packages: {error}", hint="pip install 'toilfn[aws]'") from error

        try:
            answer: dict[str, Any] = getattr(self._client(service), operation)(**parameters)
            return answer
        except ClientError as error:
            refusal = _refusal(service, error.response)
            if isinstance(refusal, CredentialsError):
                self.close()  # clients cache credentials; new clients find renewed ones
            raise refusal from None
        except (ConnectionError, HTTPClientError) as error:
            raise UnavailableError(f"AWS {service} does not respond: {error}", hint=clock_hint(error)) from None
        except NoRegionError:
            raise InputError(
                f"AWS {service}: no region is set",
                hint="pass region=..., or set TOILFN_AWS_BATCH_REGION or AWS_DEFAULT_REGION",
            ) from None
        except (NoCredentialsError, CredentialRetrievalError, SSOError) as error:
            raise CredentialsError(f"AWS {service}: {error}", hint=_credentials_hint()) from None
        except (BotoCoreError, ValueError) as error:
            raise InputError(f"AWS {service}: {error}") from None

    def pages(self, service: str, operation: str, items: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Call an operation that returns pages, and iterate over the items of all pages."""
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
            from botocore.config import Config
            from botocore.session import Session

            # botocore must not retry: a request that submits a job must not be sent twice. The caller decides.
            config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)
            session = Session(profile=self._profile)
            self._clients[service] = session.create_client(
                service, region_name=self._region, endpoint_url=self._endpoint_url, config=config
            )
        return self._clients[service]


def _refusal(service: str, response: dict[str, Any]) -> ClusterError:
    said, status = response["Error"], response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(said.get("Code"))
    text = f"AWS {service} answered {code}: {said.get('Message')}"
    if status >= 500 or code in _THROTTLED:
        return UnavailableError(text)
    if any(words in str(said.get("Message")) for words in _OTHER_TIME):
        return CredentialsError(text, hint=SET_CLOCK)
    if code in _CLOCK:  # EC2 sends the same code if temporary credentials have expired
        return AmazonRefusalError(text, code, f"{SET_CLOCK}; if it is right, renew your credentials")
    if code == "AuthFailure":  # EC2 sends it for wrong credentials and for a wrong clock
        return CredentialsError(text, hint=f"{_credentials_hint()}; if they are valid, set this machine's clock")
    if code in _CREDENTIALS:
        return CredentialsError(text, hint=_credentials_hint())
    if code in _FORBIDDEN:
        hint: str | None = "grant this user or role the permission, or use another one (AWS_PROFILE)"
    elif code in _QUOTA:
        hint = "request a higher quota from AWS for this account and region, or use fewer resources"
    elif code in _TAKEN:
        hint = "another resource has this name: choose another name, or remove that resource if it is not needed"
    else:
        hint = None
    return AmazonRefusalError(text, code, hint)


def _credentials_hint() -> str:
    return (
        "provide credentials with access to this service; the leader uses those that botocore finds (AWS_PROFILE, "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the role of its machine)"
    )
