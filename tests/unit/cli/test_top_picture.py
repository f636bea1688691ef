"""How ``cgpu top`` looks."""

from __future__ import annotations

from typing import Any

import pytest

from cgpu.agent.documentation import GPU, TENANT
from cgpu.agent.schema import check
from cgpu.cli.top_picture import screen
from cgpu.cli.top_view import View
from cgpu.model.units import GIB, MIB
from tests.unit.cli.sample_documents import SECOND_NS, gpu, look, process, share, tenant

WIDE = 200

TENANTS = (
    tenant(
        "train",
        share(
            asked_percent=57.1, utilisation_percent=57, weight=4, used_bytes=GIB, memory_bytes=6 * GIB,
            compute_percent=40, compute_limit_percent=80, priority=1, waiting=True, oom_count=3,
        ),
    ),
    tenant(
        "batch",
        share(asked_percent=14.3, utilisation_percent=99, policy=4, compute_percent=15, compute_enforced=True),
    ),
    tenant("serve", share(asked_percent=28.6, utilisation_percent=0, used_bytes=2 * GIB, waited_ns=SECOND_NS // 4)),
)  # fmt: skip


def view_of(*tenants: dict[str, Any], **options: Any) -> View:
    first = look(*[{**one, "shares": [{**row, "waited_ns": 0} for row in one["shares"]]} for one in tenants], **options)
    return View(1.0).answered(first).answered(look(*tenants, second=1.0, **options))


def texts(view: View, width: int = WIDE, height: int = 40) -> list[str]:
    return [line.text.rstrip() for line in screen(view, width, height)]


def row(name: str, view: View, width: int = WIDE) -> str:
    return next(text for text in texts(view, width) if text.startswith(name))


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_samples_are_documents_of_the_api():
    check(gpu(), GPU)
    for one in (*TENANTS, tenant("flagged", share(processes=[process()]))):
        check(one, TENANT)


def test_a_line_has_all_of_a_tenant():
    view = view_of(*TENANTS)
    assert words(row("TENANT", view)) == ("TENANT GPU ASKED GOT MEMORY WAIT WEIGHT COMPUTE LIMIT PRIO POLICY LAYER OOM")
    assert words(row("train", view)) == (
        "train 0 57.1% 57% #######|.... 1024/6144MiB now 0% 4 40% recorded 80% high 2 weighted shim/slots 3"
    )
    assert words(row("serve", view)) == (
        "serve 0 28.6% 0% ...|........ 2048/2048MiB 25% 1 - - - 2 weighted shim/slots 0"
    )


def test_compute_says_whether_it_is_enforced():
    view = view_of(*TENANTS)
    assert "40% recorded" in row("train", view)
    assert "15%" in row("batch", view)
    assert "recorded" not in row("batch", view)


def test_the_bar_marks_what_was_asked_on_what_was_got():
    view = view_of(
        tenant("none", share(asked_percent=0, utilisation_percent=0)),
        tenant("all", share(asked_percent=100, utilisation_percent=100)),
        tenant("more", share(asked_percent=25, utilisation_percent=75)),
    )
    assert "|..........." in row("none", view)
    assert "###########|" in row("all", view)
    assert "###|#####..." in row("more", view)


def test_the_first_look_has_no_share_of_waiting_but_says_who_waits():
    view = View(1.0).answered(look(*TENANTS))
    assert row("train", view).split()[6:8] == ["now", "-"]
    assert row("serve", view).split()[6] == "-"


def test_a_gpu_has_a_header():
    two = gpu(index=1, uuid="GPU-2", name="NVIDIA A10", simulated=False, policy=3, tenants=0, max_inst=7)
    lines = texts(view_of(*TENANTS, gpus=[gpu(), two]))
    assert lines[1] == ("GPU 0 [simulated]  Tesla T4  policy 2 weighted  util 97%  memory 5120/15079MiB  tenants 3/20")
    assert lines[2] == "GPU 1  NVIDIA A10  policy 3 fixed  util 97%  memory 5120/15079MiB  tenants 0/7"


def test_a_gpu_that_does_not_answer_says_why():
    lines = screen(view_of(gpus=[gpu(fault="GPU is lost")]), WIDE, 20)
    assert lines[1].text == "GPU 0 [simulated]  does not answer: GPU is lost"
    assert lines[1].style == "reverse"
    assert lines[2].text.rstrip() == "no tenants"


def test_a_tenant_has_a_line_on_each_of_its_gpus():
    both = tenant("both", share(), share(gpu_index=1, gpu_uuid="GPU-2"), share(gpu_index=None, gpu_uuid="GPU-3"))
    lines = [text.split()[:2] for text in texts(view_of(both)) if text.startswith("both")]
    assert lines == [["both", "0"], ["both", "1"], ["both", "gone"]]


@pytest.mark.parametrize(
    "suspect",
    [tenant("odd", fault="the region is damaged"), tenant("odd", share(processes=[process(bypasses_shim=True)]))],
)
def test_a_tenant_that_needs_a_look_is_marked(suspect: dict[str, Any]):
    assert row("!odd", view_of(*TENANTS, suspect))


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("tenant", ["batch", "serve", "train"]),
        ("gpu", ["batch", "serve", "train"]),
        ("got", ["batch", "train", "serve"]),
        ("asked", ["train", "serve", "batch"]),
        ("memory", ["serve", "train", "batch"]),
        ("wait", ["serve", "batch", "train"]),
        ("oom", ["train", "batch", "serve"]),
    ],
)
def test_the_lines_are_in_the_order_of_the_sort_column(sort: str, order: list[str]):
    view = view_of(*TENANTS)
    while view.sort != sort:
        view = view.pressed("s")
    lines = texts(view)
    assert f"sort: {sort}" in lines[0]
    assert [text.split()[0] for text in lines[3:]] == order


@pytest.mark.parametrize(
    ("width", "heading", "name"),
    [
        (200, "TENANT GPU ASKED GOT MEMORY WAIT WEIGHT COMPUTE LIMIT PRIO POLICY LAYER OOM", "a-name-of-some-length"),
        (119, "TENANT GPU ASKED GOT MEMORY WAIT WEIGHT COMPUTE LIMIT PRIO LAYER OOM", "a-name-of-so"),
        (90, "TENANT GPU ASKED GOT MEMORY WAIT LAYER OOM", "a-name-of-som"),
        (80, "TENANT GPU ASKED GOT MEMORY WAIT OOM", "a-name-of-some-"),
        (60, "TENANT GPU ASKED GOT MEMORY WAIT", "a-name-of-some"),
        (40, "TENANT GOT MEMORY", "a-name-of-some-le"),
        (20, "TENANT GOT", "a-name-of-so"),
        (12, "TENANT", "a-name-of-so"),
        (5, "TENAN", "a-nam"),
    ],
)
def test_columns_are_left_out_by_their_rank_and_a_name_takes_what_is_left(width: int, heading: str, name: str):
    lines = texts(view_of(tenant("a-name-of-some-length", share())), width)
    assert words(lines[2]) == heading
    assert lines[3].split()[0] == name


def test_a_header_keeps_what_matters_and_that_the_gpu_is_simulated():
    view = view_of(*TENANTS)
    assert texts(view, 40)[1] == "GPU 0 [simulated]  util 97%"
    assert texts(view, 20)[1] == "GPU 0 [simulated]"


def test_a_screen_of_20_by_5_has_a_tenant_and_says_how_many_are_left_out():
    assert texts(view_of(*TENANTS), 20, 5) == [
        "cgpu top  12:00:00", "GPU 0 [simulated]", "TENANT       GOT", "batch        99%", "+2 more lines",
    ]  # fmt: skip


def test_many_gpus_leave_room_for_the_tenants():
    cards = [gpu(index=index, uuid=f"GPU-{index}") for index in range(8)]
    lines = texts(view_of(*TENANTS, gpus=cards), WIDE, 9)
    assert [text.split()[0] for text in lines] == [
        "cgpu",
        "GPU",
        "GPU",
        "GPU",
        "+5",
        "TENANT",
        "batch",
        "serve",
        "train",
    ]


def test_an_outage_is_told_above_the_last_picture():
    view = view_of(*TENANTS).failed("no agent answers at /run/cgpu/agent.sock", "start one with `cgpu agent`")
    lines = screen(view, WIDE, 20)
    assert lines[1].text == "no answer since 12:00:00, trying again: no agent answers at /run/cgpu/agent.sock"
    assert lines[1].style == "reverse"
    assert "train" in texts(view)[-1]


def test_without_any_answer_the_way_out_is_told():
    assert texts(View(1.0).failed("no agent answers at x", "start one with `cgpu agent`"))[1:] == [
        "no answer, trying again: no agent answers at x", "start one with `cgpu agent`",
    ]  # fmt: skip


def test_the_title_tells_keys_pause_interval_and_sort():
    title = texts(View(2.5).answered(look(*TENANTS)).pressed("p"))[0]
    assert title == (
        "cgpu top  12:00:00  PAUSED  sort: tenant  3 tenants  every 2.5 s  q quit  s sort  p pause  ? help"
    )


def test_help_takes_the_place_of_the_tables():
    lines = texts(view_of(*TENANTS).pressed("?"))
    assert "q  quit" in lines
    assert not any(text.startswith("train") for text in lines)


def test_nothing_in_a_document_reaches_the_terminal_as_a_command():
    evil = tenant("a\x1b[2Jb\n\u4e2d\u7530c")
    assert row("a?[2Jb???c", view_of(evil))


def test_memory_is_in_mebibytes_as_nvidia_smi_has_it():
    assert "1/3MiB" in row("a", view_of(tenant("a", share(used_bytes=2 * MIB - 1, memory_bytes=3 * MIB))))
