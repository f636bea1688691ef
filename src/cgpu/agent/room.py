"""Cards and tenants by name, what of a card is taken, and which cards a tenant may ask for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from cgpu.agent.documents import NodeDocument, Record
from cgpu.agent.survey import Survey
from cgpu.errors import NoSuchGpuError, NoSuchTenantError, RefusedError, UsageError
from cgpu.model.admission import Occupancy, admit, fits_card, fits_time
from cgpu.model.tenant import Gpu, GpuPolicy, Share, Tenant
from cgpu.model.units import format_memory

_WHOLE_PERCENT: Final = 100


def gpu_named(name: str, gpus: Collection[Gpu]) -> Gpu:
    """The card with this index or UUID. Raises NoSuchGpuError."""
    for gpu in gpus:
        if name in (str(gpu.index), gpu.uuid):
            return gpu
    known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
    raise NoSuchGpuError(f"there is no GPU {name!r} on this node", f"GPUs here: {known}")


def record_named(name: str, records: Mapping[str, Record]) -> Record:
    """The tenant with this id or name. Raises NoSuchTenantError."""
    record = records.get(name) or next((row for row in records.values() if row.tenant.name == name), None)
    if record is None:
        raise NoSuchTenantError(f"there is no tenant {name!r}", "`cgpu ps` lists them")
    return record


def check_cards(tenant: Tenant) -> None:
    """Raise UsageError or RefusedError unless the tenant asks for one share of each of its cards."""
    if not tenant.shares:
        raise UsageError("a tenant needs a share of at least one GPU")
    if len({share.gpu_uuid for share in tenant.shares}) != len(tenant.shares):
        raise RefusedError("a GPU is named twice", "one share of each GPU is what a tenant can have")


def check_card(gpu: Gpu) -> None:
    """Raise RefusedError for a card that cannot be shared."""
    if gpu.mig:
        raise RefusedError(f"GPU {gpu.index} ({gpu.uuid}) is in MIG mode", "turn MIG off, or use another GPU")


def check_change(gpu: Gpu, document: NodeDocument, tenant: Tenant, new: Share, survey: Callable[[], Survey]) -> None:
    """Raise RefusedError or one of its kinds unless the card has what the tenant's new share promises."""
    policy = document.policy(gpu.uuid)
    old, promised = tenant.share_on(gpu.uuid), _of_promised(tenant, gpu)
    fits_card(gpu, new)
    if promised is not None:
        _check_promise(gpu, policy, tenant.name, promised, new)
    others = [record for record in document.records.values() if record.tenant.id != tenant.id]
    if old is None or new != replace(old, memory_bytes=new.memory_bytes):
        kept = (record.tenant.kept_on(gpu.uuid) for record in others)
        fits_time(gpu, policy, (*(share for share in kept if share is not None), new))
    if promised is None and (old is None or new.memory_bytes > old.memory_bytes):
        admit(gpu, policy, occupancy(gpu, others, survey()), new)


def _of_promised(tenant: Tenant, gpu: Gpu) -> Share | None:
    return tenant.kept_on(gpu.uuid) if tenant.promised else None


def _check_promise(gpu: Gpu, policy: GpuPolicy, name: str, promised: Share, new: Share) -> None:
    """Raise RefusedError for more than was promised: whoever has placed the tenant counts on no more than that."""
    if new.memory_bytes > promised.memory_bytes:
        what, given = f"{format_memory(new.memory_bytes)} of memory", format_memory(promised.memory_bytes)
    elif new.compute_percent != promised.compute_percent and _guaranteed(new, policy) > (promised.compute_percent or 0):
        what, given = f"{_guaranteed(new, policy):g} % of compute", f"{promised.compute_percent or 0} %"
    elif promised.compute_limit_percent is not None and (
        new.compute_limit_percent is None or new.compute_limit_percent > promised.compute_limit_percent
    ):
        limit = new.compute_limit_percent
        what = "no limit of compute" if limit is None else f"a limit of {limit} % of compute"
        given = f"{promised.compute_limit_percent} %"
    elif new.weight > promised.weight:
        what, given = f"weight {new.weight}", str(promised.weight)
    elif new.priority > promised.priority:
        what, given = f"priority {new.priority}", str(promised.priority)
    else:
        return
    raise RefusedError(
        f"{what} on GPU {gpu.index} is more than the claim {name} has there, {given}",
        "a share is changed at or below its claim's amounts; for more, make the pod anew with a claim that asks for it",
    )


def _guaranteed(share: Share, policy: GpuPolicy) -> float:
    """Percent of the card's time; who names none has a slice of it."""
    return share.compute_percent or _WHOLE_PERCENT / policy.max_inst


def occupancy(gpu: Gpu, records: Iterable[Record], survey: Survey) -> Occupancy:
    """What these tenants and everybody else have of the card. Raises the card's DriverError."""
    shares, overhead = [], 0
    for record in records:
        share = record.tenant.kept_on(gpu.uuid)
        if share is not None:
            shares.append(share)
            overhead += max(0, survey.on(record.tenant.id, gpu.uuid).truth_bytes - share.memory_bytes)
    return Occupancy(tuple(shares), overhead, survey.foreign_bytes(gpu.uuid))
