"""Identity tokens, the shared secret, CURVE keys, and the choice between them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr, ValidationError

from a2a_zmq.config import A2AConfig, RedisConfig, split_address
from a2a_zmq.errors import ConfigError, Refused
from a2a_zmq.protocol.message import Role
from a2a_zmq.security import tokens
from a2a_zmq.security.curve import CurvePair, agree, curve_from_secret, new_pair, raw_key
from a2a_zmq.security.identity import Identity, SecretIdentity, open_identity, server_pair
from a2a_zmq.security.keyring import KeyDirectory, Keyring

NOW = 1_764_325_800.0
ISSUER = Ed25519PrivateKey.generate()
CURVE = new_pair().public.decode()


def mint(**changes: Any) -> str:
    given: dict[str, Any] = {
        "subject": "worker-1",
        "role": Role.WORKER,
        "curve": CURVE,
        "key_id": "2",
        "token_id": "j1",
        "wall": NOW,
    }
    return tokens.mint(ISSUER, **(given | changes))


def forge(claims: dict[str, Any], *, key: Any = ISSUER, algorithm: str = "EdDSA") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


# ---------------------------------------------------------------- tokens


def test_a_good_token_says_who_holds_which_key() -> None:
    assert tokens.verify(mint(), ISSUER.public_key(), NOW) == tokens.Claims(
        "worker-1", Role.WORKER, CURVE, "2", "j1", int(NOW) + tokens.LIFE_S
    )
    claims = claims_of(mint(subject="cli~x", role=Role.CLIENT))
    assert set(claims) == set(tokens.CLAIMS)
    assert claims["sub"] == "cli"
    assert claims["exp"] - claims["iat"] <= 86_400


def test_a_token_for_longer_than_a_day_is_not_made() -> None:
    with pytest.raises(ValueError, match="86400"):
        mint(life_s=86_401)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"aud": "else"}, "InvalidAudienceError"),
        ({"iss": "else"}, "InvalidIssuerError"),
        ({"exp": int(NOW) - 31, "iat": int(NOW) - 1000}, "expired"),
        ({"iat": int(NOW) + 3600, "exp": int(NOW) + 7200}, "future"),
        ({"exp": int(NOW) + 90_000}, "24 h"),
        ({"exp": int(NOW)}, "24 h"),
        ({"exp": NOW + 0.5}, "whole seconds"),
        ({"iat": True}, "whole seconds"),
        ({"sub": "a/b"}, "identity"),
        ({"sub": "cli~1"}, "identity"),
        ({"role": "king"}, "role"),
        ({"role": ["worker"]}, "role"),
        ({"cnf": "text"}, "cnf"),
        ({"cnf": {"curve": 5}}, "cnf"),
        ({"kid": 5}, "kid"),
        ({"jti": 5}, "jti|Invalid"),
    ],
)
def test_a_signed_token_with_a_wrong_claim_is_refused(changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(Refused, match=detail) as caught:
        tokens.verify(forge(claims_of(mint()) | changes), ISSUER.public_key(), NOW)
    assert caught.value.reason == "token"


@pytest.mark.parametrize("claim", tokens.CLAIMS)
def test_no_claim_may_be_missing(claim: str) -> None:
    claims = claims_of(mint())
    del claims[claim]
    with pytest.raises(Refused) as caught:
        tokens.verify(forge(claims), ISSUER.public_key(), NOW)
    assert caught.value.reason == "token"


def test_no_other_algorithm_and_no_other_issuer() -> None:
    claims = claims_of(mint())
    public = ISSUER.public_key()
    pem = tokens.public_pem(public)
    head = base64.urlsafe_b64encode(orjson.dumps({"alg": "HS256", "typ": "JWT"})).rstrip(b"=")
    body = base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=")
    import hashlib
    import hmac

    mac = base64.urlsafe_b64encode(hmac.digest(pem, head + b"." + body, hashlib.sha256)).rstrip(b"=")
    confused = b".".join([head, body, mac]).decode()  # our public key taken for a shared secret
    unsigned = jwt.encode(claims, None, algorithm="none")  # type: ignore[arg-type]
    stranger = forge(claims, key=Ed25519PrivateKey.generate())
    for token in (confused, unsigned, stranger, "", "a.b.c", "." * 3, "x" * 5000, mint() + "x", "é"):
        with pytest.raises(Refused) as caught:
            tokens.verify(token, public, NOW)
        assert caught.value.reason == "token"


def test_no_changed_character_is_accepted() -> None:
    token = mint()
    for position in range(0, len(token) - 1, 3):  # the last character has bits that base64 does not use
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(Refused):
            tokens.verify(changed, ISSUER.public_key(), NOW)


# ---------------------------------------------------------------- CURVE


def test_our_keys_are_zeromqs_keys() -> None:
    ours = new_pair()
    assert zmq.curve_public(ours.secret) == ours.public
    theirs = CurvePair(*zmq.curve_keypair())
    one = agree(raw_key(ours.secret), raw_key(theirs.public), b"x")
    assert one == agree(raw_key(theirs.secret), raw_key(ours.public), b"x")
    assert one != agree(raw_key(theirs.secret), raw_key(ours.public), b"y")


@pytest.mark.parametrize("text", ["", "x" * 39, "x" * 41, "~" * 40, " " * 40, "é" * 40, "#" * 40, b"\xff" * 40])
def test_what_is_no_key_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="CURVE key"):
        raw_key(text)


def test_a_public_key_of_low_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"(?i)shared key|computing"):
        agree(raw_key(new_pair().secret), bytes(32), b"x")


# ---------------------------------------------------------------- shared secret


def test_a_shared_secret_gives_everybody_the_same_keys() -> None:
    hub = SecretIdentity("coordinator-1", Role.COORDINATOR, "correct horse battery")
    spoke = SecretIdentity("worker-1", Role.WORKER, b"correct horse battery")
    stranger = SecretIdentity("worker-1", Role.WORKER, "wrong horse, same length")
    assert hub.pair_keys("worker-1") == spoke.pair_keys("coordinator-1") != stranger.pair_keys("coordinator-1")
    assert spoke.server_keys("coordinator-1") == [server_pair(hub).public]
    assert hub.allow("any", spoke.curve_pair().public)
    assert hub.allow("any", stranger.curve_pair().public) is None
    assert hub.allow("any", server_pair(hub).public) is None
    user_id = hub.allow("any", spoke.curve_pair().public)
    hub.verify_peer("worker-1", Role.WORKER, spoke.token(NOW), user_id or "", NOW)
    assert not hub.revoked("", user_id or "")
    assert len({*curve_from_secret(b"x" * 16), *hub._curve}) == 4


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        SecretIdentity("worker-1", Role.WORKER, "x" * 15)
    with pytest.raises(ValidationError, match="at least 16 bytes") as caught:
        A2AConfig(agent_id="worker-1", token_secret=SecretStr("fifteen-letters"))
    assert "fifteen-letters" not in str(caught.value)


# ---------------------------------------------------------------- which keys


def test_open_identity_takes_the_first_source_that_is_set(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    keys.init({"worker-1": "worker"})
    files = {"key_path": keys.key_file("worker-1"), "cert_path": keys.peers_json}
    secret = {"token_secret": SecretStr("x" * 16)}
    opened: list[Identity] = [
        open_identity(A2AConfig(agent_id="worker-1", **options), Role.WORKER)
        for options in (files | secret, secret | {"key_dir": keys.path}, {"key_dir": keys.path})
    ]
    assert [type(identity) for identity in opened] == [Keyring, SecretIdentity, Keyring]
    assert server_pair(opened[0]) == opened[0].curve_pair()
    with pytest.raises(ConfigError, match="no keys: set key_dir"):
        open_identity(A2AConfig(agent_id="worker-1"), Role.WORKER)
    with pytest.raises(ConfigError, match="are a worker's, it starts as a client"):
        open_identity(A2AConfig(agent_id="worker-1", key_dir=keys.path), Role.CLIENT)


def test_open_identity_makes_keys_only_if_it_may(tmp_path: Path) -> None:
    config = A2AConfig(agent_id="worker-1", key_dir=tmp_path / "keys")
    with pytest.raises(ConfigError, match="key directory"):
        open_identity(config, Role.WORKER)
    assert open_identity(config, Role.WORKER, create=True).token(NOW)


# ---------------------------------------------------------------- configuration


def test_the_specifications_constructions() -> None:
    assert RedisConfig(host="localhost", port=6379).url() == "redis://localhost:6379/0"
    config = A2AConfig(agent_id="coordinator-1")
    assert (config.heartbeat_interval_ms, config.suspect_after_ms, config.dead_after_ms) == (200, 500, 800)
    for model in (RedisConfig, A2AConfig):
        with pytest.raises(ValidationError):
            model.model_validate({"agent_id": "a", "surprise": 1})


@pytest.mark.parametrize(
    ("config", "url", "masked"),
    [
        (RedisConfig(password=SecretStr("")), "redis://localhost:6379/0", "redis://localhost:6379/0"),
        (
            RedisConfig(host="::1", db=3, password=SecretStr("p@:/")),
            "redis://:p%40%3A%2F@[::1]:6379/3",
            "redis://:***@[::1]:6379/3",
        ),
        (
            RedisConfig(host="r", port=1, use_tls=True, username="u:x", password=SecretStr("p")),
            "rediss://u%3Ax:p@r:1/0",
            "rediss://u%3Ax:***@r:1/0",
        ),
    ],
)
def test_redis_urls_there_and_back(config: RedisConfig, url: str, masked: str) -> None:
    assert config.url() == url
    assert config.url(mask=True) == masked
    assert RedisConfig.from_url(url) == config
    assert "p@:/" not in repr(config)


def test_tls_options_for_redis_py_there_and_back() -> None:
    files = {"ca_path": Path("/ca"), "cert_path": Path("/cert"), "key_path": Path("/key")}
    config = RedisConfig(host="r", port=1, use_tls=True, **files)
    assert RedisConfig.from_url(config.url(), config.tls_options()) == config
    assert RedisConfig.from_url("redis://r:1", RedisConfig(host="r").tls_options()) == RedisConfig(host="r", port=1)


@pytest.mark.parametrize("option", [{"ssl_cert_reqs": "none"}, {"ssl_check_hostname": False}, {"protocol": 3}])
def test_an_option_that_would_be_left_out_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        RedisConfig.from_url("rediss://r:1", option)


@pytest.mark.parametrize(
    "url", ["http://x", "redis://h:99999", "redis://:secret@h/notanumber", "redis://h?x=secret", ""]
)
def test_a_bad_redis_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisConfig.from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"agent_id": "a/b"},
        {"agent_id": ""},
        {"cert_path": "/x"},
        {"key_path": "/x"},
        {"heartbeat_interval_ms": 400},
        {"dead_after_ms": 500},
        {"bind_address": "localhost:5550"},
        {"bind_address": "tcp://h:99999"},
        {"connect_addresses": ["tcp://h:1", "b/c@tcp://h:1"]},
        {"max_message_bytes": (1 << 20) + 1},
    ],
)
def test_bad_settings_of_an_agent_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        A2AConfig.model_validate({"agent_id": "a"} | settings)


def test_an_address_may_name_its_agent() -> None:
    assert split_address("coordinator-2@tcp://10.0.0.2:5550") == ("coordinator-2", "tcp://10.0.0.2:5550")
    assert split_address("tcp://[::1]:5550") == (None, "tcp://[::1]:5550")
    assert split_address("ipc:///run/a2a@x/hub") == (None, "ipc:///run/a2a@x/hub")
