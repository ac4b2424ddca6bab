"""From the specification's configuration values (RedisConfig, A2AConfig) to the daemons' settings."""

from __future__ import annotations

from typing import Any

from a2a_zmq.config import A2AConfig, RedisConfig


def redis_settings(config: RedisConfig | None) -> dict[str, Any]:
    """Settings members that say where Redis is."""
    if config is None:
        return {}
    return {
        "redis_host": config.host,
        "redis_port": config.port,
        "redis_db": config.db,
        "redis_username": config.username,
        "redis_password": config.password,
        "redis_use_tls": config.use_tls,
        "redis_ca_path": config.ca_path,
        "redis_cert_path": config.cert_path,
        "redis_key_path": config.key_path,
    }


def agent_settings(agent_id: str, role: str, config: A2AConfig | None) -> dict[str, Any]:
    """Settings members of an agent that runs inside another program: any free metrics port, keys as configured.

    Raises:
        ValueError: the configuration is another agent's.
    """
    settings: dict[str, Any] = {f"{role}_id": agent_id, "metrics_port": 0}
    if config is None:
        return settings
    if config.agent_id != agent_id:
        raise ValueError(f"a2a_config is for {config.agent_id!r}, the agent is {agent_id!r}")
    settings |= {
        "use_mtls": config.use_mtls,
        "cert_path": config.cert_path,
        "key_path": config.key_path,
        "token_secret": config.token_secret,
        "key_dir": config.key_dir,
        "heartbeat_interval_ms": config.heartbeat_interval_ms,
        "suspect_after_ms": config.suspect_after_ms,
        "dead_after_ms": config.dead_after_ms,
        "reconnect_grace_ms": config.reconnect_grace_ms,
    }
    if config.bind_address is not None:
        settings["bind"] = config.bind_address
    return settings
