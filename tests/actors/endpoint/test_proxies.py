"""A proxy is used where the setting or the environment names one, and never for this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import EndpointDownError, EndpointStopError
from actors.endpoint.proxies import login_of, proxy_for, without_login
from actors.endpoint.settings import EndpointSettings
from tests.fake_endpoint import MODEL, FakeEndpoint

ENV = {
    "https_proxy": "http://me:hunter2pass@proxy:3128",
    "HTTP_PROXY": "proxy:3128",
    "no_proxy": "lab.org,10.0.0.0/8,*.corp:8443",
}


@pytest.mark.parametrize(
    ("base_url", "setting", "proxy"),
    [
        ("https://api.openai.com/v1", "env", ENV["https_proxy"]),
        ("http://api.example.com/v1", "env", "http://proxy:3128"),
        ("https://api.openai.com/v1", "none", None),
        ("https://api.openai.com/v1", "http://other:1", "http://other:1"),
        ("http://127.0.0.1:8000/v1", "env", None),
        ("http://127.8.9.1:8000/v1", "http://other:1", None),
        ("http://localhost:8000/v1", "env", None),
        ("http://[::1]:8000/v1", "env", None),
        ("https://gpu.lab.org/v1", "env", None),
        ("https://notlab.org/v1", "env", ENV["https_proxy"]),
        ("https://10.3.4.5/v1", "env", None),
        ("https://11.3.4.5/v1", "env", ENV["https_proxy"]),
        ("https://a.corp:8443/v1", "env", None),
        ("https://a.corp/v1", "env", ENV["https_proxy"]),
    ],
)  # fmt: skip
def test_the_proxy_on_the_way_to_an_address(base_url: str, setting: str, proxy: str | None) -> None:
    """Loopback is asked directly, no_proxy holds hosts, domains and ranges, and a setting beats the
    environment.
    """
    assert proxy_for(base_url, setting, ENV) == proxy


def test_a_proxys_login_is_a_secret_and_not_shown() -> None:
    """What is shown of a proxy is its address."""
    assert login_of(ENV["https_proxy"]) == "hunter2pass"
    assert without_login(ENV["https_proxy"]) == "http://proxy:3128"


@pytest.mark.parametrize("value", ["on", "socks5://x:1", "http://me:pass@x:1"])
def test_a_proxy_that_cannot_be_used_is_refused(value: str) -> None:
    """Words, other protocols, and a login in the configuration are errors."""
    with pytest.raises(ValueError, match="must"):
        EndpointSettings(model="m", proxy=value)


class FakeProxy:
    """Takes requests for any host, as a forward proxy does, and answers each with `status`, or passes on a
    completion.
    """

    def __init__(self, status: int = 200) -> None:
        self.status, self.asked = status, list[str]()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(str(request.url))
        if self.status != 200:
            page = "<html><title>Proxy Authentication Required</title></html>"
            return web.Response(status=self.status, text=page, content_type="text/html")
        message = {"role": "assistant", "content": "through the proxy"}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def backend_at(base_url: str, environ: dict[str, str], **settings: Any) -> AsyncIterator[OpenAIBackend]:
    wanted = OpenAIChat(model=MODEL, base_url=base_url, api_key_env=None, max_attempts=1, **settings)
    backend = OpenAIBackend(wanted, environ=environ)
    try:
        yield backend
    finally:
        await backend.close()


ASK = ChatRequest((Message("user", ("hello",)),))


async def test_a_host_elsewhere_is_asked_through_the_proxy_of_the_environment() -> None:
    """With the real client: the name need not even be known here."""
    proxy = FakeProxy()
    async with (
        proxy.running() as address,
        backend_at("http://model.invalid/v1", {"http_proxy": address}) as backend,
    ):
        assert (await backend.complete(ASK)).text == "through the proxy"
    assert proxy.asked == ["http://model.invalid/v1/chat/completions"]


async def test_a_proxy_that_wants_a_login_is_named() -> None:
    """It is no fault of the key, and the run stops."""
    proxy = FakeProxy(407)
    async with (
        proxy.running() as address,
        backend_at("http://model.invalid/v1", {"http_proxy": address}) as backend,
    ):
        with pytest.raises(
            EndpointStopError, match=f"Proxy Authentication Required.*through the proxy {address}"
        ):
            await backend.complete(ASK)


async def test_a_server_on_this_machine_is_asked_directly_whatever_the_environment_says() -> None:
    """A proxy could not reach it."""
    with FakeEndpoint(key=None) as server:
        async with backend_at(
            server.base_url, {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        ) as backend:
            assert (await backend.complete(ASK)).text


async def test_a_proxy_that_is_not_there_is_named_and_can_be_switched_off() -> None:
    """The error says which proxy, and that `proxy` sets it."""
    async with backend_at("http://model.invalid/v1", {}, proxy="http://127.0.0.1:9") as backend:
        with pytest.raises(EndpointDownError, match=r"through the proxy http://127.0.0.1:9.*`proxy`"):
            await backend.complete(ASK)
