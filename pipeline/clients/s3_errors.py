"""Message and advice for the errors of boto3, botocore and the S3 store."""

from __future__ import annotations

from typing import Any

ADDRESS = "Set S3_ENDPOINT to the store's address, as https://host:port; empty means AWS."
KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that the store knows."
RIGHTS = "Give these keys the rights to list, read and write there, or use others."
BUCKET = "Set S3_BUCKET to one that there is, or make it: `sixview bucket setup`."

# S3 error code -> (message, advice)
CODES = {
    "InvalidAccessKeyId": ("the store does not know the access key", KEYS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", KEYS),
    "InvalidToken": ("the session token is not valid", KEYS),
    "ExpiredToken": ("the session token has expired", KEYS),
    "AccessDenied": ("these keys may not do this there", RIGHTS),
    "AllAccessDisabled": ("these keys may not do this there", RIGHTS),
    "NoSuchBucket": ("there is no such bucket", BUCKET),
    "PermanentRedirect": ("the bucket is in another region", "Set AWS_REGION to the bucket's region."),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "Set AWS_REGION to the bucket's region."),
    "RequestTimeTooSkewed": ("this machine's clock differs from the store's", "Set the clock right."),
    "NoSuchKey": ("there is no such object", "Check the key."),
}
# a response to HEAD has no body, so botocore puts the HTTP status in place of the code
STATUS = {"403": "AccessDenied", "404": "NoSuchBucket", "301": "PermanentRedirect"}

# class name of a botocore exception -> (message, advice)
CLASSES = {
    "NoCredentialsError": ("there are no keys for the store", KEYS),
    "PartialCredentialsError": ("one of the two keys for the store is missing", KEYS),
    "SSLError": (
        "the store's certificate is not accepted, or it does not speak TLS",
        "Set AWS_CA_BUNDLE to its certificate authority, or S3_ENDPOINT to http:// where it speaks plain HTTP.",
    ),
    "EndpointConnectionError": ("the store cannot be reached", ADDRESS),
    "ConnectionClosedError": ("the store closed the connection", ADDRESS),
    "ConnectTimeoutError": ("the store cannot be reached", ADDRESS),
    "ReadTimeoutError": ("the store does not answer in time", ADDRESS),
    "ParamValidationError": ("the bucket's name or the key is not a valid one", BUCKET),
    "ResponseParserError": ("what answers is no S3 store", ADDRESS),
    "ValueError": ("the store's address is not a valid one", ADDRESS),
}


def explain(error: Exception) -> tuple[str, str]:
    """Message and advice for an exception of boto3 or botocore."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    code = str((response.get("Error") or {}).get("Code", ""))
    entry = CODES.get(STATUS.get(code, code))
    if not entry:
        entry = next((CLASSES[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in CLASSES), None)
    return entry or (f"the store did not do what was asked: {error}", "")
