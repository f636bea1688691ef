"""Cards and tenants by name, what of a card is taken, and which cards a tenant may ask for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from cgpu.agent.documents import NodeDocument, Record
from cgpu.agent.survey import Survey
from cgpu.errors import NoSuchGpuError, NoSuchTenantError, RefusedError, UsageError
from cgpu.model.admission import Occupancy, admit, fits_card, fits_time
from cgpu.model.tenant import Gpu, Share, Tenant


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


def check_change(
    gpu: Gpu, document: NodeDocument, old: Share, new: Share, tenant_id: str, survey: Callable[[], Survey]
) -> None:
    """Raise RefusedError or one of its kinds unless the card has what the tenant's new share promises."""
    policy = document.policy(gpu.uuid)
    fits_card(gpu, new)
    if new != replace(old, memory_bytes=new.memory_bytes):
        fits_time(gpu, policy, tuple(new if share is old else share for share in document.shares_on(gpu.uuid)))
    if new.memory_bytes > old.memory_bytes:
        others = [record for record in document.records.values() if record.tenant.id != tenant_id]
        admit(gpu, policy, occupancy(gpu, others, survey()), new)


def occupancy(gpu: Gpu, records: Iterable[Record], survey: Survey) -> Occupancy:
    """What these tenants and everybody else have of the card. Raises the card's DriverError."""
    shares, overhead = [], 0
    for record in records:
        share = record.tenant.share_on(gpu.uuid)
        if share is not None:
            shares.append(share)
            overhead += max(0, survey.on(record.tenant.id, gpu.uuid).truth_bytes - share.memory_bytes)
    return Occupancy(tuple(shares), overhead, survey.foreign_bytes(gpu.uuid))
