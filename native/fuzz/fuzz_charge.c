// sources: tests/support/no_driver.c shim/account.c shim/blocks.c shim/region.c shim/region_slot.c
// sources: shim/share.c shim/table.c shim/nvml_slots.c
/* Charging while the tenant scribbles over its own usage file: any answer will do, in finite time; and without
 * scribbling the sums are exact and the quota holds.
 *
 * An input is a row of steps, a byte each with what it needs behind it. */
#include "../shim/share.h"
#include "../tests/support/make_region.h"
#include "charge.h"
#include "nvml_driver.h"
#include "process.h"
#include "reading.h"
#include "region_slot.h"

#define QUOTA (1000ull * CGPU_UNIT_BYTES)
#define SIBLING 1 /* a slot whose lock another process holds */
#define STEPS_MAX 200

void cg_say_once(bool *said, const char *format, ...) { *said = format; } /* to nobody */

static struct made_region made;
static bool scribbled;   /* nothing is promised to this tenant any more */
static bool above_quota; /* what was charged as the truth is not refused */

static void begin(void) {
  made = make_region(2, QUOTA);
  setenv("CGPU_REGION", made.folder, 1);
  char path[300];
  snprintf(path, sizeof path, "%s/locks", made.folder);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SIBLING, .l_len = 1};
  if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) != 0) abort();
  if (!cg_is_tenant()) abort();
}

/* As a process that has just begun, in a tenant without any. */
static void forget_process(void) {
  struct cg_process *process = cg_process();
  for (int kind = 0; kind < CG_MAX_KINDS; kind++) cg_table_clear(&process->blocks[kind]);
  cg_table_clear(&process->pages);
  memset(process, 0, sizeof *process);
}

static void begin_again(void) {
  static struct cgpu_usage fresh;
  if (!fresh.header.magic) fresh.header = made.usage->header;
  memcpy(made.usage, &fresh, sizeof fresh);
  made.grants->header.heartbeat_ns = 0;
  made.grants->gpu[0].quota_bytes = made.grants->gpu[1].quota_bytes = QUOTA;
  memset(made.grants->surplus, 0, sizeof made.grants->surplus);
  scribbled = above_quota = false;
  forget_process();
}

/* ---- what a tenant may write ---- */

static void scribble(struct reading *input) {
  struct cgpu_usage *usage = made.usage;
  unsigned place = (unsigned)take(input, 1), gpu = place >> 7;
  unsigned slot = (unsigned)take(input, 1) % 8, row = (unsigned)take(input, 1) % 16;
  uint64_t value = take(input, 8);
  struct cgpu_usage_slot *own = &usage->slot[slot == 7 ? CGPU_MAX_SLOTS - 1 : slot];
  struct cgpu_usage_export *shared = &usage->exports[row];
  scribbled = true;
  switch (place % 16) {
    case 0: usage->gpu[gpu].account = value; break;
    case 1: own->gpu[gpu].charge = value; break;
    case 2: own->gpu[gpu].intent = value; break;
    case 3: own->header.state = (uint32_t)value; break;
    case 4: own->header.claim = value; break;
    case 5: own->header.pid = value & 1 ? (uint32_t)getpid() : (uint32_t)value; break;
    case 6: own->header.start_ticks = value; break;
    case 7: own->header.pid_namespace = value & 1 ? made.usage->slot[0].header.pid_namespace : value; break;
    case 8: usage->header.slots_seen = (uint32_t)value; break;
    case 9: usage->gpu[gpu].peak_bytes = value; break;
    case 10: shared->key = value & 1 ? row : value; break;
    case 11: shared->owner = value; break;
    case 12: shared->importer[slot % CGPU_EXPORT_IMPORTERS] = value; break;
    case 13: usage->gpu[gpu].account = cgpu_account_word(value, slot, value >> 8); break;
    case 14: memcpy(own, usage->slot, sizeof *own); break;
    default: memset((char *)usage + value % (sizeof *usage - 64), (int)(value >> 32), 64); break;
  }
}

/* ---- what its processes and the agent do ---- */

static void share(struct reading *input) {
  uint64_t digest = 1 + take(input, 1) % 16, object = 1 + take(input, 1) % 4;
  switch (take(input, 1) % 6) {
    case 0: cg_export_offer(digest, object, -1); break;
    case 1: cg_export_open(digest); break;
    case 2: cg_export_leave(digest); break;
    case 3: cg_exported_return(0, 1 + take(input, 2), object, true); break;
    case 4: cg_exported_held(object); break;
    default: cg_exports_settle(0); break;
  }
}

static void agent(struct reading *input) {
  unsigned slot = (unsigned)take(input, 1) % 8, gpu = (unsigned)take(input, 1) % 2;
  uint64_t units = take(input, 2);
  switch (take(input, 1) % 4) {
    case 0: cgpu_charge_reclaim(made.usage, slot); break; /* declares dead who may live */
    case 1: made.grants->surplus[slot][gpu] = (struct cgpu_grants_surplus){
                units * CGPU_UNIT_BYTES, cgpu_charge_seq(made.usage->slot[slot].gpu[gpu].charge)}; break;
    case 2: made.grants->header.heartbeat_ns = units & 1 ? UINT64_MAX / 2 : 0; break;
    default: /* nothing: time passes, so that locks are looked at again, and the dead have been so for long */
      cg_process()->lock_checked_ns = 0;
      cg_process()->seen_dead_ns[slot] = 1;
      break;
  }
}

static void charge(unsigned step, struct reading *input) {
  int gpu = (int)(take(input, 1) % 2);
  uint64_t bytes = take(input, 3);
  if (bytes >> 23) bytes <<= bytes % 41; /* also far too much */
  switch (step) {
    case 0: cg_reserve(gpu, bytes); break;
    case 1: cg_return(gpu, bytes); break;
    case 2: cg_reserve_estimate(gpu, bytes); break;
    case 3: cg_return_estimate(gpu, bytes); break;
    case 4: above_quota = true, cg_charge_truth(gpu, bytes % QUOTA); break;
    case 5: if (cg_try_reserve(gpu, bytes) == CG_REFUSED) cg_note_oom(gpu); break;
    case 6: cg_note_managed(gpu, (int64_t)bytes), cg_note_contexts(gpu, bytes & 1 ? 1 : -1), cg_note_denied(gpu); break;
    default: { /* what it sees of itself */
      static struct cg_nvml_own rows[CGPU_MAX_SLOTS];
      uint64_t used, quota;
      const unsigned nobody[] = {0, 1, (unsigned)getpid()};
      cg_usage_now(gpu, &used, &quota);
      HOLDS(cg_nvml_own_processes(gpu, nobody, 3, rows) <= CGPU_MAX_SLOTS && quota == QUOTA);
    }
  }
}

/* ---- what holds ---- */

static void check(void) {
  const struct cg_process *process = cg_process();
  HOLDS(!process->registered || process->region.state != CG_REGION_READY || process->region.slot < CGPU_MAX_SLOTS);
  for (unsigned gpu = 0; gpu < 2; gpu++) {
    HOLDS(process->holding[gpu].estimate_units <= process->holding[gpu].units);
    if (scribbled) continue;
    uint64_t used = cgpu_account_used(made.usage->gpu[gpu].account), sum = 0;
    for (unsigned slot = 0; slot < CGPU_MAX_SLOTS; slot++) sum += cgpu_charge_units(made.usage->slot[slot].gpu[gpu].charge);
    HOLDS(used == sum);
    HOLDS(above_quota || used * CGPU_UNIT_BYTES <= QUOTA);
  }
  HOLDS(made.grants->header.magic == CGPU_GRANTS_MAGIC && made.grants->gpu[0].quota_bytes == QUOTA);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct reading input = {data, data + size};
  if (!made.usage) begin();
  begin_again();
  for (int step = 0; step < STEPS_MAX && input.at < input.end; step++) {
    unsigned kind = (unsigned)take(&input, 1) % 16;
    if (kind < 8) charge(kind, &input);
    else if (kind < 11) scribble(&input);
    else if (kind < 13) share(&input);
    else if (kind < 15) above_quota = true, agent(&input);
    else if (take(&input, 1) % 2) forget_process();
  }
  check();
  return 0;
}
