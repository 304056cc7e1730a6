"""Where a teacher's server is, and how patiently it is asked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from opdlab import credentials
from opdlab.configuration.section import Section
from opdlab.methods import Offers
from opdlab.serving import SERVED_OFFERS, SERVICE_OFFERS, Access, check_access


class Server(Section):
    """A server that scores with the teacher; no teacher weights are loaded here."""

    type: Literal["vllm", "opdlab"] = "vllm"
    """`vllm`, or `opdlab` for a service of `opdlab teach`, which gives all that a teacher in this
    process gives."""
    url: str = "http://localhost:8000/v1"
    """Base URL of the OpenAI API, including `/v1`; of `opdlab teach` the address that it printed."""
    served_model: str | None = None
    """Name of the model on a vLLM server; null uses the only one."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the API key, if any; of `opdlab teach` by default OPDLAB_TEACH_KEY."""
    concurrency: int = Field(default=64, ge=1, le=4096)
    """Concurrent requests."""
    patience_s: float = Field(default=600.0, ge=0)
    """Seconds for which a failed request is retried, with growing delays."""
    timeout_s: float = Field(default=3600.0, gt=0)
    """Longest wait for one answer, in seconds."""

    @model_validator(mode="before")
    @classmethod
    def _key_of_its_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "opdlab":
            return {"key_variable": credentials.TEACHING_KEY, **data}
        return data

    @model_validator(mode="after")
    def _an_address(self) -> Server:
        object.__setattr__(self, "url", check_access(self.url, self.key_variable))
        return self

    @model_validator(mode="after")
    def _of_its_kind(self) -> Server:
        if self.type == "opdlab" and "url" not in self.model_fields_set:
            raise ValueError("url is missing: the address that `opdlab teach` printed")
        if self.type == "opdlab" and self.served_model is not None:
            raise ValueError("served_model is of a vLLM; a service of `opdlab teach` has one model")
        return self

    @property
    def offers(self) -> Offers:
        """What it can tell."""
        return SERVICE_OFFERS if self.type == "opdlab" else SERVED_OFFERS

    @property
    def access(self) -> Access:
        """Where the server is and how patiently it is spoken to."""
        return Access(
            self.url, self.key_variable, self.concurrency, self.patience_s, self.timeout_s
        )
