"""What a client is told when it does not get what it asked for, in OpenAI's words."""

from typing import Any


class Refused(Exception):
    """Becomes {"error": {"message", "type", "param", "code"}} with its status.

    param: the field at fault. retry_after: seconds after which to try again."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def kind(self) -> str:
        return _KINDS.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def bad(param: str | None, message: str, code: str | None = None) -> Refused:
    """400, of the field `param`."""
    return Refused(400, message, param, code)
