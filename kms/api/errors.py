"""Refusals that only HTTP knows.

InputError (kms.services.errors)
├── MalformedJsonError         the body is not strict JSON
├── UnsupportedMediaTypeError  the body is not declared as JSON
├── MethodNotAllowedError      the resource exists, the method does not
├── RequestTimeoutError        the body did not arrive in time
├── HeadersTooLargeError       request line and headers exceed the limit
└── MalformedRequestError      not HTTP
"""

from kms.services.errors import InputError, Retry


class MalformedJsonError(InputError):
    """Not JSON, or JSON that two parsers could read differently."""

    problem = "malformed-json"


class UnsupportedMediaTypeError(InputError):
    """The body is not declared as `application/json`."""

    problem = "unsupported-media-type"


class MethodNotAllowedError(InputError):
    """The method is not offered there."""

    problem = "method-not-allowed"


class RequestTimeoutError(InputError):
    """The body took too long."""

    problem = "request-timeout"
    retry = Retry.SAME


class HeadersTooLargeError(InputError):
    """Request line and headers exceed the limit."""

    problem = "headers-too-large"


class MalformedRequestError(InputError):
    """What came is not HTTP."""

    problem = "malformed-request"
