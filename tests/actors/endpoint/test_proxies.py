"""A proxy is used where the setting or the environment names one, and never for this machine."""

from __future__ import annotations

import pytest

from actors.endpoint.proxies import login_of, proxy_for, without_login
from actors.endpoint.settings import EndpointSettings

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
    """Loopback is asked directly, no_proxy holds hosts, domains and ranges, and a setting beats the environment."""
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
