/* The region: the one contract between the shim (C, inside a tenant's processes) and the agent.
 *
 * A tenant has a folder with three files:
 *   grants   intent flows down: written by the agent alone, mapped read-only by the tenant
 *   usage    facts flow up: written by the tenant's processes, read (and repaired) by the agent
 *   locks    never mapped: byte N is locked by the process that owns slot N of `usage`
 * A tenant can never write what another tenant reads. Lock and mapping are separate opens, because a
 * mapping keeps the lock of its own open file description alive.
 *
 * Every field is one row of a table below, X(type, name, offset, writer) or, for an array,
 * A(type, name, count, offset, writer). From the rows come
 * the C structures, an assertion per offset, and the JSON of native/tests/layout_dump.c, which a
 * test compares with src/cgpu/region/layout.py.
 *
 * Rules of change: fields are appended into reserved space, never moved or reused. A reader refuses
 * another major version and accepts any minor one. Fields that several processes write are
 * accessed with C11 atomics only. All integers are little endian. Sizes are bytes unless the name
 * says otherwise; times are CLOCK_MONOTONIC nanoseconds, which all containers of a host share.
 *
 * Writers: `agent` (the daemon), `arbiter` (its native thread), `slot` (the process that owns the
 * slot), `tenant` (any process of the tenant, atomically), `any` (tenant or agent, atomically).
 */
#ifndef CGPU_REGION_H
#define CGPU_REGION_H

#include <stddef.h>
#include <stdint.h>

#define CGPU_REGION_MAJOR 1u
#define CGPU_REGION_MINOR 0u
#define CGPU_GRANTS_MAGIC 0x53544e4152475543ull /* "CUGRANTS" */
#define CGPU_USAGE_MAGIC 0x3045474153555543ull  /* "CUUSAGE0" */

#define CGPU_MAX_GPUS 16u   /* GPUs of one tenant; indices are NVML's on the host */
#define CGPU_MAX_SLOTS 1023u /* processes of one tenant; slot 1023 means "none" */
#define CGPU_NO_SLOT 1023u
#define CGPU_MAX_EXPORTS 1024u /* blocks of one tenant that its processes share at a time */
#define CGPU_EXPORT_IMPORTERS 6u

/* Memory is counted in units of 256 bytes, the least alignment of a device allocation. */
#define CGPU_UNIT_BYTES 256u

/* ---- grants: flags ---- */
#define CGPU_TENANT_REFUSE_MANAGED 0x1u /* cuMemAllocManaged answers CUDA_ERROR_NOT_SUPPORTED */
#define CGPU_GPU_PRESENT 0x1u           /* this row of the GPU table is in use */

/* ---- grants: gpu.grant, the futex word of the gate: (epoch << 2) | state ---- */
#define CGPU_GRANT_CLOSED 0u /* not this tenant's slot: launches wait */
#define CGPU_GRANT_OPEN 1u   /* the tenant's slot until grant_deadline_ns */
#define CGPU_GRANT_FREE 2u   /* no gate at all (policy 5, or compute is not managed) */
#define CGPU_GRANT_STATE(word) ((word)&3u)

/* ---- grants: gpu.demand, for people who look ---- */
#define CGPU_DEMAND_WANT 0x1u /* waits for a slot */
#define CGPU_DEMAND_BUSY 0x2u /* has work on the GPU */
#define CGPU_DEMAND_HOLD 0x4u /* has the slot */

/* ---- usage: slot.state ---- */
#define CGPU_SLOT_FREE 0u
#define CGPU_SLOT_LIVE 1u /* owned: its byte of `locks` is locked by the owner */

/* ---- usage: slot.gpu.gate, what the process tells the arbiter ---- */
#define CGPU_GATE_BUSY 0x1u /* launched work may be unfinished */
#define CGPU_GATE_WANT 0x2u /* a thread waits for a grant */

/* ---- The charge of memory: one atomic step, attributable at every instant ----
 *
 * account (one word per GPU and tenant) = used units:36 | slot:10 | seq:18
 * charge  (one word per GPU and slot)   = units:37      | seq:27
 * intent  (one word per GPU and slot)   = delta units, two's complement:37 | seq:27
 *
 * To charge or return: under a lock private to the process, write intent (delta, seq = charge.seq+1);
 * then compare-and-swap account from (used, p, q) to (used+delta, own slot, seq) if used+delta plus
 * overhead fits the quota (a return always fits); then complete: compare-and-swap the own charge
 * from (units, seq-1) to (units+delta, seq). Before replacing account, everybody completes the
 * operation that it names, (p, q), from intent[p]: so an operation has happened exactly when account
 * named it, and a kill between any two steps neither leaks nor counts twice. An intent that account
 * never named did not happen. Reclaiming a dead process is the same operation, made on its slot by
 * whoever holds the slot's lock.
 */
#define CGPU_ACCOUNT_SEQ_BITS 18
#define CGPU_ACCOUNT_SLOT_BITS 10
#define CGPU_CHARGE_SEQ_BITS 27

/* clang-format off */
#define CGPU_GRANTS_HEADER_FIELDS(X, A) \
  X(uint64_t, magic,                  0, agent) /* CGPU_GRANTS_MAGIC, written last at creation */ \
  X(uint32_t, major,                  8, agent) \
  X(uint32_t, minor,                 12, agent) \
  X(uint64_t, size_bytes,            16, agent) /* of the file; a shorter file is refused */ \
  X(uint64_t, generation,            24, agent) /* grows with every change of intent */ \
  X(uint64_t, heartbeat_ns,          32, arbiter) /* at most 250 ms old while alive; may be ahead */ \
  X(uint32_t, flags,                 40, agent) /* CGPU_TENANT_* */ \
  X(uint32_t, gpu_count,             44, agent) /* rows of gpu[] in use */ \
  A(char,     tenant_id,            128,  48, agent) /* NUL-terminated */ \
  A(char,     tenant_name,           64, 176, agent) /* NUL-terminated */ \
  A(uint8_t,  reserved,             272, 240, agent)

#define CGPU_GRANTS_GPU_FIELDS(X, A) \
  A(uint8_t,  uuid,                  16,   0, agent) /* as NVML and cuDeviceGetUuid give it */ \
  X(uint32_t, flags,                 16, agent) /* CGPU_GPU_* */ \
  X(uint32_t, nvml_index,            20, agent) \
  X(uint64_t, quota_bytes,           24, agent) /* what the tenant may hold, contexts included */ \
  X(uint64_t, overhead_bytes,        32, agent) /* card's truth beyond the tenant's charges (NVML) */ \
  X(uint64_t, context_bytes,         40, agent) /* estimate charged for a context of this GPU */ \
  X(uint32_t, policy,                48, agent) /* 0..5 */ \
  X(uint32_t, compute_percent,       52, agent) /* 1..100; 0: none given */ \
  X(uint32_t, weight,                56, agent) /* 1.. */ \
  X(uint32_t, priority,              60, agent) /* 0 normal, 1 high */ \
  X(uint32_t, grant,                 64, arbiter) /* futex word: (epoch << 2) | CGPU_GRANT_* */ \
  X(uint32_t, contenders,            68, arbiter) /* tenants on this GPU that want or hold it */ \
  X(uint64_t, grant_deadline_ns,     72, arbiter) /* end of the slot; launches stop at it */ \
  X(uint64_t, quantum_ns,            80, arbiter) /* length of a slot */ \
  X(uint32_t, share_ppm,             88, arbiter) /* own share, for self-enforcement without agent */ \
  X(uint32_t, share_offset_ppm,      92, arbiter) /* where in the common window it begins */ \
  X(uint64_t, share_window_ns,       96, arbiter) /* length of that window */ \
  X(uint32_t, utilisation_percent,  104, agent) /* of the tenant, for its NVML view */ \
  X(uint32_t, memory_layer,         108, agent) /* 0 shim, 1 driver, 2 broker */ \
  X(uint64_t, busy_ns,              112, arbiter) /* time charged to the tenant so far */ \
  X(uint64_t, total_bytes,          120, agent) /* of the card */ \
  X(uint64_t, waited_ns,            128, arbiter) /* time in which it wanted the GPU and did not hold it */ \
  X(uint64_t, turns,                136, arbiter) /* slots that it got, extensions of a slot included */ \
  X(uint64_t, preempted,            144, arbiter) /* slots that ended by time while it had work */ \
  X(uint64_t, preempting,           152, arbiter) /* slots of others that ended so and were followed by its own */ \
  X(uint32_t, compute_limit_percent, 160, agent)  /* 1..100: cap beside the guarantee; 0: none given */ \
  X(uint32_t, demand,               164, arbiter) /* CGPU_DEMAND_*: what it does at the gate now */ \
  X(uint64_t, queue_ns,             168, arbiter) /* bound for queued work; 0: nobody has said */ \
  X(uint64_t, expected_ns,          176, arbiter) /* when its next slot will probably begin, told shortly before */ \
  A(uint8_t,  reserved,              72, 184, agent)

/* For a living process whose charge is above the card's truth: what it may return itself. */
#define CGPU_GRANTS_SURPLUS_FIELDS(X, A) \
  X(uint64_t, surplus_bytes,          0, agent) \
  X(uint64_t, charge_seq,             8, agent) /* valid only while slot.gpu.charge has this seq */

#define CGPU_USAGE_HEADER_FIELDS(X, A) \
  X(uint64_t, magic,                  0, agent) /* CGPU_USAGE_MAGIC, written last at creation */ \
  X(uint32_t, major,                  8, agent) \
  X(uint32_t, minor,                 12, agent) \
  X(uint64_t, size_bytes,            16, agent) \
  X(uint32_t, doorbell,              24, tenant) /* futex: rung when a slot registers or unregisters */ \
  X(uint32_t, slots_seen,            28, tenant) /* one above the highest slot ever taken */ \
  A(uint8_t,  reserved,             480,  32, agent)

#define CGPU_USAGE_GPU_FIELDS(X, A) \
  X(uint64_t, account,                0, any)    /* used:36 | slot:10 | seq:18 */ \
  X(uint64_t, oom_count,              8, tenant) /* allocations refused for the quota */ \
  X(uint64_t, peak_bytes,            16, tenant) /* highest used seen, at least approximately */ \
  X(uint64_t, denied_count,          24, tenant) /* calls refused for another reason */ \
  A(uint8_t,  reserved1,             32,  32, tenant) /* doorbell on a cache line of its own */ \
  X(uint32_t, doorbell,              64, tenant) /* futex: rung when a gate word changes to want or idle */ \
  X(uint32_t, reserved2,             68, tenant) \
  X(uint64_t, worked_ns,             72, tenant) /* learnt cost of the work that has finished */ \
  X(uint64_t, long_ns,               80, tenant) /* what a launch in flight may take beyond a slot; 0: nothing */ \
  A(uint8_t,  reserved,              40,  88, tenant)

#define CGPU_USAGE_SLOT_FIELDS(X, A) \
  X(uint32_t, state,                  0, any)  /* CGPU_SLOT_* */ \
  X(uint32_t, pid,                    4, slot) /* in the process's own PID namespace */ \
  X(uint64_t, start_ticks,            8, slot) /* field 22 of /proc/self/stat: with pid, unique */ \
  X(uint64_t, pid_namespace,         16, slot) /* inode of /proc/self/ns/pid */ \
  X(uint64_t, claim,                 24, any)  /* grows with each registration and each reclaim */ \
  X(uint32_t, shim_minor,            32, slot) \
  X(uint32_t, driver_version,        36, slot) /* cuDriverGetVersion of its libcuda */ \
  A(char,     comm,                  16,  40, slot) /* process name, NUL-terminated */ \
  A(uint8_t,  reserved,               8,  56, slot)

#define CGPU_USAGE_SLOT_GPU_FIELDS(X, A) \
  X(uint64_t, charge,                 0, any)  /* units:37 | seq:27 */ \
  X(uint64_t, intent,                 8, any)  /* delta:37 | seq:27 */ \
  X(uint32_t, gate,                  16, slot) /* CGPU_GATE_* */ \
  X(uint32_t, contexts,              20, slot) /* living contexts */ \
  X(uint64_t, explicit_bytes,        24, slot) /* part of charge that has a size; rest is estimate */ \
  X(uint64_t, managed_bytes,         32, slot) /* part of charge that is managed memory */ \
  X(uint64_t, launches,              40, slot) /* submitted so far */ \
  X(uint64_t, drained_ns,            48, slot) /* when in-flight work last became none */ \
  X(uint64_t, waited_ns,             56, slot) /* time spent waiting for grants */

/* Memory that one process of the tenant shares with others of it. A process is written
 * claim << 10 | slot, so that a word of a process that is gone matches nobody; 0: none. */
#define CGPU_USAGE_EXPORT_FIELDS(X, A) \
  X(uint64_t, key,                    0, tenant) /* digest of what is handed over; 0: row is free */ \
  X(uint64_t, owner,                  8, tenant) /* the process that is charged for the memory */ \
  A(uint64_t, importer,           6, 16, tenant) /* processes that hold it open */
/* clang-format on */

#define CGPU_X_MEMBER(type, name, offset, writer) type name;
#define CGPU_A_MEMBER(type, name, count, offset, writer) type name[count];
#define CGPU_STRUCT(fields) { fields(CGPU_X_MEMBER, CGPU_A_MEMBER) }

struct cgpu_grants_header CGPU_STRUCT(CGPU_GRANTS_HEADER_FIELDS);
struct cgpu_grants_gpu CGPU_STRUCT(CGPU_GRANTS_GPU_FIELDS);
struct cgpu_grants_surplus CGPU_STRUCT(CGPU_GRANTS_SURPLUS_FIELDS);
struct cgpu_usage_header CGPU_STRUCT(CGPU_USAGE_HEADER_FIELDS);
struct cgpu_usage_gpu CGPU_STRUCT(CGPU_USAGE_GPU_FIELDS);
struct cgpu_usage_slot_header CGPU_STRUCT(CGPU_USAGE_SLOT_FIELDS);
struct cgpu_usage_slot_gpu CGPU_STRUCT(CGPU_USAGE_SLOT_GPU_FIELDS);
struct cgpu_usage_export CGPU_STRUCT(CGPU_USAGE_EXPORT_FIELDS);

/* The three composites; a file is exactly one of the first and the last. */
struct cgpu_grants {
  struct cgpu_grants_header header;
  struct cgpu_grants_gpu gpu[CGPU_MAX_GPUS];
  struct cgpu_grants_surplus surplus[CGPU_MAX_SLOTS][CGPU_MAX_GPUS];
};
struct cgpu_usage_slot {
  struct cgpu_usage_slot_header header;
  struct cgpu_usage_slot_gpu gpu[CGPU_MAX_GPUS];
};
struct cgpu_usage {
  struct cgpu_usage_header header;
  struct cgpu_usage_gpu gpu[CGPU_MAX_GPUS];
  struct cgpu_usage_slot slot[CGPU_MAX_SLOTS];
  struct cgpu_usage_export exports[CGPU_MAX_EXPORTS];
};

#define CGPU_CHECK(structure, name, offset) \
  _Static_assert(offsetof(struct structure, name) == (offset), #structure "." #name " moved");
#define CGPU_DEFINE_CHECK(structure, fields, size) \
  fields(structure##_X, structure##_A)              \
  _Static_assert(sizeof(struct structure) == (size), #structure " changed its size");
#define cgpu_grants_header_X(t, n, o, w) CGPU_CHECK(cgpu_grants_header, n, o)
#define cgpu_grants_header_A(t, n, c, o, w) CGPU_CHECK(cgpu_grants_header, n, o)
#define cgpu_grants_gpu_X(t, n, o, w) CGPU_CHECK(cgpu_grants_gpu, n, o)
#define cgpu_grants_gpu_A(t, n, c, o, w) CGPU_CHECK(cgpu_grants_gpu, n, o)
#define cgpu_grants_surplus_X(t, n, o, w) CGPU_CHECK(cgpu_grants_surplus, n, o)
#define cgpu_grants_surplus_A(t, n, c, o, w) CGPU_CHECK(cgpu_grants_surplus, n, o)
#define cgpu_usage_header_X(t, n, o, w) CGPU_CHECK(cgpu_usage_header, n, o)
#define cgpu_usage_header_A(t, n, c, o, w) CGPU_CHECK(cgpu_usage_header, n, o)
#define cgpu_usage_gpu_X(t, n, o, w) CGPU_CHECK(cgpu_usage_gpu, n, o)
#define cgpu_usage_gpu_A(t, n, c, o, w) CGPU_CHECK(cgpu_usage_gpu, n, o)
#define cgpu_usage_slot_header_X(t, n, o, w) CGPU_CHECK(cgpu_usage_slot_header, n, o)
#define cgpu_usage_slot_header_A(t, n, c, o, w) CGPU_CHECK(cgpu_usage_slot_header, n, o)
#define cgpu_usage_slot_gpu_X(t, n, o, w) CGPU_CHECK(cgpu_usage_slot_gpu, n, o)
#define cgpu_usage_slot_gpu_A(t, n, c, o, w) CGPU_CHECK(cgpu_usage_slot_gpu, n, o)
#define cgpu_usage_export_X(t, n, o, w) CGPU_CHECK(cgpu_usage_export, n, o)
#define cgpu_usage_export_A(t, n, c, o, w) CGPU_CHECK(cgpu_usage_export, n, o)
CGPU_DEFINE_CHECK(cgpu_grants_header, CGPU_GRANTS_HEADER_FIELDS, 512)
CGPU_DEFINE_CHECK(cgpu_grants_gpu, CGPU_GRANTS_GPU_FIELDS, 256)
CGPU_DEFINE_CHECK(cgpu_grants_surplus, CGPU_GRANTS_SURPLUS_FIELDS, 16)
CGPU_DEFINE_CHECK(cgpu_usage_header, CGPU_USAGE_HEADER_FIELDS, 512)
CGPU_DEFINE_CHECK(cgpu_usage_gpu, CGPU_USAGE_GPU_FIELDS, 128)
CGPU_DEFINE_CHECK(cgpu_usage_slot_header, CGPU_USAGE_SLOT_FIELDS, 64)
CGPU_DEFINE_CHECK(cgpu_usage_slot_gpu, CGPU_USAGE_SLOT_GPU_FIELDS, 64)
CGPU_DEFINE_CHECK(cgpu_usage_export, CGPU_USAGE_EXPORT_FIELDS, 64)
_Static_assert(sizeof(struct cgpu_grants) == 512 + 16 * 256 + 1023 * 16 * 16, "grants changed its size");
_Static_assert(sizeof(struct cgpu_usage) == 512 + 16 * 128 + 1023 * (64 + 16 * 64) + 1024 * 64, "usage changed its size");

#endif
