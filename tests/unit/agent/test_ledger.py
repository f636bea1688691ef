"""The audit of time: what the arbiter counts is in the ledger once, whatever ends or breaks in between."""

from __future__ import annotations

import itertools
import logging
import shutil
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cgpu.agent.ledger import ROWS_MAX, Ledger
from cgpu.agent.reconcile import Reconciler
from cgpu.agent.state import NodeState
from cgpu.errors import NoSuchGpuError, NoSuchTenantError, StateError, UsageError
from cgpu.model.account import KEPT_S, AccountQuery, Counters
from cgpu.testing.fakes import GPU_UUIDS
from tests.unit.agent.conftest import World, tenant, write_counters

S = 10**9
COUNTED = Counters(5 * S, 3 * S, 40, 6, 7)


@pytest.fixture
def reconciler(world: World, state: NodeState) -> Reconciler:
    return world.reconciler(state)


def total(rows: list[dict[str, Any]]) -> Counters:
    added = Counters()
    for row in rows:
        added += Counters(*(row[name] for name in asdict(added)))
    return added


def rows(state: NodeState, **query: Any) -> list[dict[str, Any]]:
    return state.ledger.rows(AccountQuery(**query))


def count(state: NodeState, counters: Counters, name: str = "a") -> None:
    write_counters(state.region(name), counters)


def test_what_the_arbiter_counts_is_told_per_tenant_and_gpu(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant("a", gpus=(0, 1)))
    state.create(tenant("b"))
    write_counters(state.region("a"), COUNTED, row=1)
    count(state, Counters(got_ns=S), "b")
    world.tick(reconciler, 5)
    first, second, third = rows(state)
    begin = int(world.started_s)
    assert second == {
        "tenant_id": "a",
        "name": "a",
        "gpu_uuid": GPU_UUIDS[1],
        "gpu_index": 1,
        "from": begin,
        "to": begin + 6,
        "got_ns": 5 * S,
        "waited_ns": 3 * S,
        "turns": 40,
        "preempted": 6,
        "preempting": 7,
    }
    assert (first["gpu_index"], total([first])) == (0, Counters())  # idle, and listed
    assert (third["tenant_id"], third["got_ns"]) == ("b", S)


def test_the_loop_writes_every_five_seconds_and_at_each_turn_of_a_minute(
    world: World, state: NodeState, reconciler: Reconciler
):
    state.create(tenant())
    world.tick(reconciler)  # the first
    count(state, Counters(got_ns=S))
    world.tick(reconciler, 4)
    assert total(rows(state)) == Counters()
    world.tick(reconciler, 1.5)
    assert total(rows(state)) == Counters(got_ns=S)
    world.tick(reconciler, 53)
    count(state, Counters(got_ns=3 * S))
    world.tick(reconciler, 2)  # two seconds later, in the next minute
    assert total(rows(state)) == Counters(got_ns=3 * S)


def test_time_falls_into_the_minute_in_which_it_was_got(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant())
    for second in range(1, 121):
        count(state, Counters(got_ns=second * S, turns=second))
        world.tick(reconciler, 1)
    begin = int(world.started_s)
    told = [(row["from"] - begin, row["to"] - begin, row["got_ns"] // S) for row in rows(state, step=60)]
    # The look at the turn of a minute tells of the minute that has ended.
    assert told == [(0, 60, 60), (60, 120, 60), (120, 121, 0)]
    assert [row["turns"] for row in rows(state, since=begin + 70, until=begin + 80)] == [60]


def test_steps_without_anything_are_told_as_well(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant())
    world.tick(reconciler, 600)
    history = rows(state, step=120)
    assert [row["got_ns"] for row in history] == [0] * 6
    assert all(after["from"] == row["to"] for row, after in itertools.pairwise(history))
    assert history[-1]["to"] == int(world.wall_clock()) + 1


def test_the_next_agent_goes_on_from_what_the_last_one_saw(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant())
    count(state, COUNTED)
    world.tick(reconciler, 5)
    count(state, replace(COUNTED, got_ns=6 * S))
    state.close()  # an agent that stops writes what it has not yet
    assert total(state.ledger.rows(AccountQuery())).got_ns == 6 * S
    later = world.recovered()
    count(later, replace(COUNTED, got_ns=8 * S))
    later.account()
    assert total(rows(later)) == replace(COUNTED, got_ns=8 * S)


def test_what_a_killed_agent_has_not_written_is_taken_from_the_region_before_an_arbiter_starts(
    world: World, state: NodeState
):
    state.create(tenant())
    count(state, COUNTED)
    state._locks.release()  # the kernel does that: the first agent is gone without a word
    later = world.recovered()
    assert total(rows(later)) == COUNTED
    count(later, Counters(got_ns=2 * S))  # an arbiter that begins again at zero
    later.account()
    later.account()
    assert total(rows(later)) == COUNTED + Counters(got_ns=2 * S)


def test_a_removed_tenants_last_time_is_kept_and_its_id_may_come_again(
    world: World, state: NodeState, reconciler: Reconciler
):
    state.create(tenant())
    count(state, COUNTED)
    world.tick(reconciler, 5)
    count(state, COUNTED + COUNTED)
    state.remove("a")
    assert total(rows(state, tenant="a")) == COUNTED + COUNTED
    state.create(tenant())
    # More than the last life's counters: no step backwards shows that this is another life.
    count(state, COUNTED + COUNTED + COUNTED)
    world.tick(reconciler, 5)
    assert total(rows(state, tenant="a")) == Counters(*(5 * value for value in COUNTED.values()))


def test_an_id_that_comes_again_under_another_name_is_another_tenant(world: World, state: NodeState):
    state.create(replace(tenant("x"), name="first"))
    count(state, COUNTED, "x")
    state.remove("x")
    state.create(replace(tenant("x"), name="second"))
    count(state, Counters(got_ns=S), "x")
    state.account()
    assert [(row["name"], row["got_ns"]) for row in rows(state, tenant="x")] == [("first", 5 * S), ("second", S)]
    assert [row["got_ns"] for row in rows(state, tenant="second")] == [S]


def test_an_ended_tenant_is_listed_for_the_time_that_it_was_there(
    world: World, state: NodeState, reconciler: Reconciler
):
    state.create(tenant("a"))
    world.tick(reconciler, 30)
    state.remove("a")
    world.tick(reconciler, 300)
    state.create(tenant("b"))
    world.tick(reconciler, 5)
    begin = int(world.started_s)
    assert [row["tenant_id"] for row in rows(state)] == ["a", "b"]
    assert [row["tenant_id"] for row in rows(state, until=begin + 60)] == ["a"]
    assert [row["tenant_id"] for row in rows(state, since=begin + 120)] == ["b"]
    assert {row["tenant_id"]: row["to"] for row in rows(state, step=60, until=begin + 60)} == {"a": begin + 60}


def test_rows_older_than_31_days_are_deleted(world: World, state: NodeState, reconciler: Reconciler):
    for name in ("gone", "stays"):
        state.create(tenant(name))
        count(state, COUNTED, name)
    world.tick(reconciler, 5)
    state.remove("gone")
    world.tick(reconciler, KEPT_S - 60)
    assert total(rows(state)) == COUNTED + COUNTED
    count(state, COUNTED + COUNTED, "stays")
    world.tick(reconciler, 120)
    state.account()
    assert [(row["name"], total([row])) for row in rows(state)] == [("stays", COUNTED)]
    with sqlite3.connect(state.ledger.path) as database:
        assert database.execute("SELECT count(*) FROM minute").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM share").fetchone() == (1,)
    database.close()


def test_a_tenant_older_than_the_ledger_begins_with_it(world: World, state: NodeState):
    state.create(tenant())
    count(state, COUNTED)
    state.close()
    state.ledger.path.unlink()
    later = world.recovered()
    assert total(rows(later)) == Counters()
    count(later, COUNTED + COUNTED)
    later.account()
    assert total(rows(later)) == COUNTED


def test_tenants_and_gpus_are_chosen_and_unknown_ones_are_errors(world: World, state: NodeState):
    state.create(replace(tenant("a", gpus=(0, 1)), name="web"))
    assert [row["gpu_index"] for row in rows(state, gpu="1")] == [1]
    assert [row["gpu_index"] for row in rows(state, gpu=GPU_UUIDS[0])] == [0]
    assert len(rows(state, tenant="web")) == len(rows(state, tenant="a")) == 2
    with pytest.raises(NoSuchTenantError, match="no tenant 'x'") as unknown:
        rows(state, tenant="x")
    assert "cgpu account" in unknown.value.remedy
    with pytest.raises(NoSuchGpuError, match="no GPU '7'"):
        rows(state, gpu="7")


def test_an_empty_or_future_interval_and_an_unwritten_ledger_are_no_errors(world: World, state: NodeState):
    assert rows(state, tenant="x", step=60) == []
    state.create(tenant())
    later = int(world.started_s) + 1000
    assert rows(state, since=later) == rows(state, until=0) == rows(state, since=later, until=later - 500) == []


def test_more_rows_than_an_answer_holds_are_refused_with_the_way_out(world: World, state: NodeState):
    state.create(tenant())
    world.now_ns += (ROWS_MAX + 1) * 60 * S
    state.account()
    with pytest.raises(UsageError, match=f"more than {ROWS_MAX} rows") as refused:
        rows(state, step=60)
    assert "longer step" in refused.value.remedy
    assert len(rows(state, step=120)) == ROWS_MAX // 2 + 1


@pytest.mark.parametrize("content", [b"not a database, and longer than a header of SQLite" * 100, "version", "folder"])
def test_what_is_no_ledger_is_set_aside_and_said_once(
    world: World, caplog: pytest.LogCaptureFixture, content: bytes | str
):
    path = world.folder / "account.sqlite3"
    if content == "folder":
        (path / "in").mkdir(parents=True)
    elif content == "version":
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    state = world.recovered()
    state.create(tenant())
    count(state, COUNTED)
    state.account()
    assert total(rows(state)) == COUNTED
    assert path.with_name("account.sqlite3.unreadable").exists()
    (said,) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "kept as account.sqlite3.unreadable" in said


def test_a_ledger_that_is_damaged_under_a_running_agent_is_set_aside_and_what_is_not_lost_goes_on(
    world: World, state: NodeState
):
    state.create(tenant("a"))
    state.create(tenant("idle"))
    count(state, COUNTED)
    state.account()
    state.ledger.close()
    path = state.ledger.path
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StateError, match="malformed"):
        rows(state)
    count(state, COUNTED + Counters(got_ns=S))
    state.account()
    assert [(row["name"], row["got_ns"]) for row in rows(state)] == [("a", S), ("idle", 0)]
    assert path.with_name("account.sqlite3.unreadable").exists()


def test_damage_that_only_a_question_finds_is_set_aside_by_the_next_write(world: World, state: NodeState):
    state.create(tenant())
    state.ledger.close()
    database = sqlite3.connect(state.ledger.path)
    days = range(int(world.started_s) - 20 * 86400, int(world.started_s), 600)
    database.execute("UPDATE share SET began = ?", (days[0],))
    database.executemany("INSERT INTO minute VALUES (?, 1, 1, 1, 1, 1, 1)", [(minute,) for minute in days])
    database.commit()
    database.close()
    with state.ledger.path.open("r+b") as file:
        file.seek(state.ledger.path.stat().st_size // 8192 * 4096)  # a page in the middle, which no write touches
        file.write(b"\xff" * 4096)
    count(state, Counters(got_ns=S))
    state.account()
    assert not list(world.folder.glob("*.unreadable"))
    with pytest.raises(StateError, match="malformed"):
        rows(state)
    count(state, Counters(got_ns=2 * S))
    state.account()
    assert total(rows(state)) == Counters(got_ns=S)
    assert list(world.folder.glob("*.unreadable"))


def test_a_second_damage_is_not_set_aside_again(world: World, state: NodeState, caplog: pytest.LogCaptureFixture):
    path = state.ledger.path
    path.write_bytes(b"x" * 5000)
    state.create(tenant("a"))
    state.ledger.close()
    path.write_bytes(b"y" * 5000)
    for name in ("b", "c", "d"):
        state.create(tenant(name))
    assert sorted(found.name for found in world.folder.glob("account.sqlite3.unreadable*")) == [
        "account.sqlite3.unreadable"
    ]
    assert len([record for record in caplog.records if "waits in memory" in record.message]) == 1


def test_a_ledger_that_cannot_be_written_for_a_while_loses_nothing(
    world: World, state: NodeState, reconciler: Reconciler, caplog: pytest.LogCaptureFixture
):
    state.create(tenant("a"))
    state.create(tenant("ends"))
    holder = sqlite3.connect(state.ledger.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    count(state, COUNTED)
    count(state, COUNTED, "ends")
    world.tick(reconciler, 5)
    world.tick(reconciler, 5)
    state.remove("ends")
    holder.execute("ROLLBACK")
    holder.close()
    assert len([record for record in caplog.records if "locked" in record.message]) == 1
    assert total(rows(state)) == Counters()
    count(state, COUNTED + COUNTED)
    world.tick(reconciler, 5)
    assert total(rows(state, tenant="a")) == COUNTED + COUNTED
    assert total(rows(state, tenant="ends")) == COUNTED


def test_tenants_that_come_and_go_while_the_ledger_cannot_be_opened_are_not_lost(world: World):
    world.account = "later/account.sqlite3"
    state = world.recovered()
    for _ in range(2):
        state.create(tenant())
        count(state, COUNTED)
        state.remove("a")
    state.create(tenant())
    count(state, COUNTED)
    state.account()
    (world.folder / "later").mkdir()
    state.account()
    assert total(rows(state)) == COUNTED + COUNTED + COUNTED


def test_a_foreign_region_left_in_the_folder_counts_for_nobody(world: World, state: NodeState):
    state.create(tenant())
    count(state, COUNTED)
    state.close()
    shutil.copytree(state.region("a"), state.region("z"))
    count(state, COUNTED + COUNTED, "z")
    assert total(rows(world.recovered())) == COUNTED


def test_a_ledger_that_was_deleted_begins_again(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant())
    for path in world.folder.glob("account.sqlite3*"):
        path.unlink()
    for added in range(1, 4):
        count(state, Counters(got_ns=added * S))
        world.tick(reconciler, 5)
    assert total(rows(state)) == Counters(got_ns=3 * S)


def test_a_folder_that_is_gone_does_not_stop_the_agent(tmp_path: Path):
    ledger = Ledger(tmp_path / "none" / "account.sqlite3")
    ledger.begin(tenant(), {uuid: World(tmp_path).node.cards[index] for index, uuid in enumerate(GPU_UUIDS)})
    ledger.close()
    assert ledger.rows(AccountQuery()) == []


def test_a_damaged_region_is_left_out_and_its_tenant_ends_all_the_same(world: World, state: NodeState):
    state.create(tenant("a"))
    state.create(tenant("b"))
    count(state, Counters(got_ns=1 << 62))  # no arbiter has counted that
    count(state, COUNTED, "b")
    state.account()
    assert [row["got_ns"] for row in rows(state)] == [0, 5 * S]
    (state.region("b") / "grants").write_bytes(b"")
    state.account()
    state.remove("b")
    world.now_ns += 600 * S
    state.account()
    assert [row["tenant_id"] for row in rows(state, since=int(world.wall_clock()) - 60)] == ["a"]


def test_an_agent_without_tenants_makes_no_ledger(world: World, state: NodeState, reconciler: Reconciler):
    world.tick(reconciler, 5)
    state.close()
    assert not state.ledger.path.exists()


def test_a_closed_ledger_is_one_file(world: World, state: NodeState):
    state.create(tenant())
    state.close()
    assert [path.name for path in world.folder.glob("account*")] == ["account.sqlite3"]
    shutil.copy(state.ledger.path, world.folder / "copy")
    assert Ledger(world.folder / "copy", world.wall_clock).rows(AccountQuery())[0]["tenant_id"] == "a"
