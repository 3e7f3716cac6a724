"""One attempt at an OpenAI-compatible server through the official client: a parsed body, or a `Failure`.

The client's own retries are off, so that every attempt is seen, counted and paid for in one place. The key
comes from `OPENAI_API_KEY` alone and goes nowhere but into the request's header.
"""

import asyncio
import json
import os
import re
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from alpaca.engines import failures
from alpaca.engines.exchange import KEY, EngineSettings
from alpaca.engines.failures import LONGEST_SAID, Failure, Target
from alpaca.errors import UserError

OFFICIAL = "https://api.openai.com/v1"
LONGEST_CONNECT_S = 10.0
LONGEST_DOWNLOAD_S = 3600.0
SLOWEST_TRANSFER = 100_000  # bytes a second of an upload that is not given up
MOST_BYTES, MOST_PACKED_BYTES = 64 << 20, 2 << 20  # of one answer
NO_PROXY = "unset http_proxy, https_proxy and all_proxy, or name a working one (SOCKS: pip install socksio)"
NO_KEY = "none"  # local servers want a header and read nothing in it


@dataclass(frozen=True)
class Received:
    """A body of a response with a status of success, and the response's headers."""

    payload: Any
    headers: dict[str, str]


class Remote:
    """A connection pool to one server."""

    def __init__(self, settings: EngineSettings):
        """Check address and key; nothing is sent.

        Raises:
            UserError: no key for a server that wants one, an address that is none.
        """
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        base_url = settings.base_url or OFFICIAL
        host = _checked_host(base_url)
        key = os.environ.get(KEY, "").strip()
        if not key and settings.base_url is None:
            raise UserError(
                f"engine={settings.name}: the environment variable {KEY} is not set; set it to your key, "
                "or give base_url of a server that needs none"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(f"the environment variable {KEY} holds characters that no key has; set it again")
        self.target = Target(settings.model, host, key)
        self._timeout_s = settings.timeout_s
        timeout = httpx2.Timeout(settings.timeout_s, connect=min(LONGEST_CONNECT_S, settings.timeout_s / 2))
        try:
            self._client = AsyncOpenAI(
                api_key=key or NO_KEY,
                base_url=base_url,
                max_retries=0,
                timeout=timeout,
                http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_bound]}),
            )
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{_proxies(base_url) or 'a proxy'} cannot be used ({str(error).splitlines()[0]}); {NO_PROXY}"
            ) from None
        self._proxies = _proxies(base_url)

    async def post(self, path: str, body: dict[str, Any]) -> Received | Failure:
        """Send `body` as JSON and read JSON back."""
        import httpx2

        return await self._attempt(self._client.post(path, body=body, cast_to=httpx2.Response))

    async def get(self, path: str) -> Received | Failure:
        """Read JSON."""
        import httpx2

        return await self._attempt(self._client.get(path, cast_to=httpx2.Response))

    async def upload(self, name: str, content: bytes, purpose: str) -> Received | Failure:
        """Upload a file for `purpose`; the payload is the file's description."""
        call = self._client.files.with_raw_response.create(file=(name, content), purpose=purpose)  # type: ignore[arg-type]
        return await self._attempt(call, self._timeout_s + len(content) / SLOWEST_TRANSFER)

    async def download(self, file_id: str) -> bytes | Failure:
        """The bytes of a file."""
        got = await self._attempt(
            self._client.files.with_raw_response.content(file_id), LONGEST_DOWNLOAD_S, parse=False
        )
        return got if isinstance(got, Failure) else bytes(got.payload)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _attempt(self, call: Any, seconds: float | None = None, *, parse: bool = True) -> Received | Failure:
        import httpx2
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        seconds = seconds or self._timeout_s
        try:
            async with asyncio.timeout(seconds):  # the client's own limit is per read, not per attempt
                response = await call
        except (TimeoutError, APITimeoutError) as error:
            names = _names(error)
            if "ConnectTimeout" in names or "PoolTimeout" in names:
                return self._broken(error)
            return failures.of_timeout(seconds)
        except APIStatusError as error:
            return failures.of_status(
                error.status_code, _lower(error.response.headers), error.response.text, self.target
            )
        except (APIConnectionError, httpx2.HTTPError, _TooLarge) as error:
            return self._broken(error)
        headers = _lower(response.headers)
        if not parse:
            return Received(response.content, headers)
        try:
            return Received(json.loads(response.content), headers)
        except (ValueError, RecursionError):
            return self._no_json(response.content, headers)

    def _broken(self, error: BaseException) -> Failure:
        """A connection that failed; a proxy on the way may be why."""
        chain = _chain(error)
        words = "\n".join(map(str, chain))
        if any(isinstance(one, _TooLarge) for one in chain):
            return failures.of_bad_body(f"a body of more than {MOST_BYTES >> 20} MiB")
        failure = failures.of_broken_connection([type(one).__name__ for one in chain], self.target, words)
        if failure.reached or not self._proxies:
            return failure
        return replace(failure, reason=f"{failure.reason} through {self._proxies}, which the environment names")

    def _no_json(self, content: bytes, headers: dict[str, str]) -> Failure:
        text = content[:LONGEST_SAID].decode("utf-8", "replace").strip()
        kind = headers.get("content-type", "").partition(";")[0].strip()
        shown = self.target.clean(text)
        if not text:
            return failures.of_bad_body("an empty body instead of JSON")
        if text.startswith("data:") or kind == "text/event-stream":
            return failures.of_bad_body("a stream of events instead of one JSON answer", shown)
        if text[0] not in "{[":
            return failures.of_bad_body(f"content type {self.target.clean(kind) or 'missing'} instead of JSON", shown)
        return failures.of_bad_body("the body is not whole JSON", shown)


def _checked_host(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        raise UserError(f"base_url={base_url}: not an address; write it as http://127.0.0.1:8000/v1") from None
    if parts.username or parts.password:
        raise UserError(f"base_url: it holds a user name or password; give the key in {KEY} only")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"base_url={base_url}: not an http address; write it as http://127.0.0.1:8000/v1")
    return parts.hostname + (f":{port}" if port else "")


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and its causes, the first cause last."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    return chain


def _names(error: BaseException) -> list[str]:
    return [type(one).__name__ for one in _chain(error)]


def _proxies(base_url: str) -> str:
    """The proxy that the environment puts before an address, without its password; "" where there is none."""
    parts = urlsplit(base_url)
    proxies = urllib.request.getproxies()
    chosen = proxies.get(parts.scheme) or proxies.get("all")
    if not chosen or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return f"the proxy {re.sub('//[^/@]*@', '//', chosen)}"


class _TooLarge(Exception):
    """A body that no answer is as long as."""


async def _bound(response: Any) -> None:
    """Let no body but a file's grow without end; one that is packed may grow while it is unpacked."""
    import httpx2

    if response.request.url.path.endswith("/content"):
        return
    most = MOST_PACKED_BYTES if response.headers.get("content-encoding", "identity") != "identity" else MOST_BYTES
    inner = response.stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = most
            async for chunk in inner:
                if (left := left - len(chunk)) < 0:
                    raise _TooLarge
                yield chunk

        async def aclose(self) -> None:
            await inner.aclose()

    response.stream = Bounded()


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}
