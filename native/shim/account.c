/* account.c - charging memory for this process: the quota, the estimates, what can still be done
 * before an allocation is refused. The charge itself is charge.h. */
#include "charge.h"
#include "memory.h"
#include "region_slot.h"

void cg_stocks_watch(void) { atomic_store_explicit(&cg_process()->stocks, true, memory_order_relaxed); }

/* What the charges of the tenant may add up to, in units. */
static uint64_t limit_units(const struct cgpu_grants_gpu *grant) {
  uint64_t quota = __atomic_load_n(&grant->quota_bytes, __ATOMIC_ACQUIRE);
  uint64_t overhead = __atomic_load_n(&grant->overhead_bytes, __ATOMIC_ACQUIRE);
  return quota > overhead ? (quota - overhead) / CGPU_UNIT_BYTES : 0;
}

/* ---- with account_lock held ---- */

static void publish(struct cg_process *process, unsigned gpu) {
  const struct cg_holding *holding = &process->holding[gpu];
  struct cgpu_usage_slot_gpu *row = &process->region.usage->slot[process->region.slot].gpu[gpu];
  __atomic_store_n(&row->explicit_bytes, (holding->units - holding->estimate_units) * CGPU_UNIT_BYTES, __ATOMIC_RELAXED);
  __atomic_store_n(&row->managed_bytes, holding->managed_bytes, __ATOMIC_RELAXED);
  __atomic_store_n(&row->contexts, holding->contexts, __ATOMIC_RELAXED);
}

static void give_back(struct cg_process *process, unsigned gpu, uint64_t units) {
  if (!units) return;
  cgpu_charge(process->region.usage, process->region.slot, gpu, -(int64_t)units, 0);
  process->holding[gpu].units -= units;
}

/* Takes up what the agent found that this process charges beyond what the card holds for it. Only
 * estimates can be too high. The agent's word counts only if nothing was charged since it looked. */
static void fold_surplus(struct cg_process *process, unsigned gpu) {
  const struct cgpu_grants_surplus *surplus = &process->region.grants->surplus[process->region.slot][gpu];
  struct cg_holding *holding = &process->holding[gpu];
  uint64_t own = cgpu_charge_seq(cgpu_load(&process->region.usage->slot[process->region.slot].gpu[gpu].charge));
  if (__atomic_load_n(&surplus->charge_seq, __ATOMIC_ACQUIRE) != own) return;
  uint64_t units = __atomic_load_n(&surplus->surplus_bytes, __ATOMIC_ACQUIRE) / CGPU_UNIT_BYTES;
  if (!units || __atomic_load_n(&surplus->charge_seq, __ATOMIC_ACQUIRE) != own) return;
  if (units > holding->estimate_units) units = holding->estimate_units;
  give_back(process, gpu, units);
  holding->estimate_units -= units;
}

/* ---- one attempt ---- */

enum limit { WITHIN_QUOTA, WHATEVER_QUOTA };

static bool charge_once(struct cg_process *process, int gpu, uint64_t units, bool estimate, enum limit limit) {
  cg_lock_take(&process->account_lock);
  struct cg_holding *holding = &process->holding[gpu];
  bool granted = cg_slot_hold(process);
  if (granted) {
    fold_surplus(process, (unsigned)gpu);
    uint64_t allowed = limit == WITHIN_QUOTA ? limit_units(&process->region.grants->gpu[gpu]) : UINT64_MAX;
    granted = units <= CGPU_MAX_UNITS &&
              cgpu_charge(process->region.usage, process->region.slot, (unsigned)gpu, (int64_t)units, allowed);
  }
  if (granted) {
    holding->units += units;
    if (estimate) {
      holding->estimate_units += units;
      holding->estimate_asked += units;
    }
    publish(process, (unsigned)gpu);
  }
  cg_lock_give(&process->account_lock);
  return granted;
}

static enum cg_verdict try_reserve(int gpu, uint64_t bytes, bool estimate) {
  const struct cg_region *region = cg_region();
  if (region->state == CG_REGION_BROKEN) return CG_REFUSED;
  if (region->state == CG_REGION_NONE || gpu < 0) return CG_PASS;
  struct cg_process *process = cg_process();
  uint64_t units = cgpu_units_of(bytes);
  if (charge_once(process, gpu, units, estimate, WITHIN_QUOTA)) return CG_GRANTED;
  bool stocks = atomic_load_explicit(&process->stocks, memory_order_relaxed);
  if (stocks && cg_stocks_relieve(gpu) && charge_once(process, gpu, units, estimate, WITHIN_QUOTA)) return CG_GRANTED;
  cg_lock_take(&process->account_lock);
  bool reclaimed = cg_slot_reclaim_dead(process, gpu);
  cg_lock_give(&process->account_lock);
  return reclaimed && charge_once(process, gpu, units, estimate, WITHIN_QUOTA) ? CG_GRANTED : CG_REFUSED;
}

static enum cg_verdict reserve(int gpu, uint64_t bytes, bool estimate) {
  enum cg_verdict verdict = try_reserve(gpu, bytes, estimate);
  if (verdict == CG_REFUSED) cg_note_oom(gpu);
  return verdict;
}

/* Whether there is an account to return to: never a reason to register. */
static struct cg_process *accounted(int gpu) {
  struct cg_process *process = cg_process();
  return gpu >= 0 && atomic_load(&process->registered) && process->region.state == CG_REGION_READY ? process : NULL;
}

/* ---- for the hooks ---- */

enum cg_verdict cg_reserve(int gpu, uint64_t bytes) { return reserve(gpu, bytes, false); }
enum cg_verdict cg_reserve_estimate(int gpu, uint64_t bytes) { return reserve(gpu, bytes, true); }

enum cg_verdict cg_try_reserve(int gpu, uint64_t bytes) { return try_reserve(gpu, bytes, false); }

void cg_note_oom(int gpu) {
  struct cg_process *process = accounted(gpu);
  if (process) __atomic_fetch_add(&process->region.usage->gpu[gpu].oom_count, 1, __ATOMIC_RELAXED);
}

void cg_charge_truth(int gpu, uint64_t bytes) {
  struct cg_process *process = accounted(gpu);
  if (process && bytes) charge_once(process, gpu, cgpu_units_of(bytes), false, WHATEVER_QUOTA);
}

void cg_return(int gpu, uint64_t bytes) {
  struct cg_process *process = accounted(gpu);
  if (!process || !bytes) return;
  cg_lock_take(&process->account_lock);
  struct cg_holding *holding = &process->holding[gpu];
  uint64_t units = cgpu_units_of(bytes), sized = holding->units - holding->estimate_units;
  if (cg_slot_hold(process)) {
    fold_surplus(process, (unsigned)gpu);
    give_back(process, (unsigned)gpu, units < sized ? units : sized);
    publish(process, (unsigned)gpu);
  }
  cg_lock_give(&process->account_lock);
}

void cg_return_estimate(int gpu, uint64_t bytes) {
  struct cg_process *process = accounted(gpu);
  if (!process || !bytes) return;
  cg_lock_take(&process->account_lock);
  struct cg_holding *holding = &process->holding[gpu];
  uint64_t units = cgpu_units_of(bytes);
  if (cg_slot_hold(process)) {
    fold_surplus(process, (unsigned)gpu);
    /* Surplus given back earlier is not returned again: what stays charged is at most what is asked
     * for by the estimates that remain. */
    holding->estimate_asked -= units < holding->estimate_asked ? units : holding->estimate_asked;
    uint64_t keep = holding->estimate_units < holding->estimate_asked ? holding->estimate_units : holding->estimate_asked;
    give_back(process, (unsigned)gpu, holding->estimate_units - keep);
    holding->estimate_units = keep;
    publish(process, (unsigned)gpu);
  }
  cg_lock_give(&process->account_lock);
}

void cg_note_managed(int gpu, int64_t bytes) {
  struct cg_process *process = accounted(gpu);
  if (!process) return;
  cg_lock_take(&process->account_lock);
  process->holding[gpu].managed_bytes += (uint64_t)bytes;
  publish(process, (unsigned)gpu);
  cg_lock_give(&process->account_lock);
}

void cg_note_contexts(int gpu, int change) {
  struct cg_process *process = accounted(gpu);
  if (!process) return;
  cg_lock_take(&process->account_lock);
  process->holding[gpu].contexts += (uint32_t)change;
  publish(process, (unsigned)gpu);
  cg_lock_give(&process->account_lock);
}

void cg_keep_slot(void) {
  struct cg_process *process = cg_process();
  if (!atomic_load(&process->registered) || process->region.state != CG_REGION_READY) return;
  cg_lock_take(&process->account_lock);
  cg_slot_hold(process);
  cg_lock_give(&process->account_lock);
}

void cg_note_denied(int gpu) {
  const struct cg_region *region = cg_region();
  if (region->state == CG_REGION_READY && gpu >= 0)
    __atomic_fetch_add(&region->usage->gpu[gpu].denied_count, 1, __ATOMIC_RELAXED);
}

void cg_usage_now(int gpu, uint64_t *used_bytes, uint64_t *quota_bytes) {
  const struct cg_files *files = cg_files();
  *used_bytes = *quota_bytes = 0;
  if (files->state != CG_REGION_READY || gpu < 0 || gpu >= (int)CGPU_MAX_GPUS) return;
  const struct cgpu_grants_gpu *grant = &files->grants->gpu[gpu];
  *quota_bytes = __atomic_load_n(&grant->quota_bytes, __ATOMIC_ACQUIRE);
  *used_bytes = cgpu_account_used(cgpu_load(&files->usage->gpu[gpu].account)) * CGPU_UNIT_BYTES +
                __atomic_load_n(&grant->overhead_bytes, __ATOMIC_ACQUIRE);
}
