/* card_usage.c - what each process, cgroup and card has used. */
#include <stdio.h>
#include <string.h>

#include "card_internal.h"

/* ---- busy time of the last two seconds, by buckets ---- */

void sg_window_add(struct sg_window *window, uint64_t from_ns, uint64_t to_ns) {
  uint64_t number = from_ns >> SG_BUCKET_SHIFT, last = (to_ns - 1) >> SG_BUCKET_SHIFT;
  if (last >= SG_BUCKETS && number < last - (SG_BUCKETS - 1)) number = last - (SG_BUCKETS - 1);
  for (; number <= last; number++) {
    uint64_t start = number << SG_BUCKET_SHIFT, end = (number + 1) << SG_BUCKET_SHIFT;
    uint64_t spent = (to_ns < end ? to_ns : end) - (from_ns > start ? from_ns : start);
    uint64_t *bucket = &window->bucket[number % SG_BUCKETS];
    bool current = *bucket >> SG_BUCKET_TIME_BITS == number;
    SG_SET(*bucket, (current ? *bucket : number << SG_BUCKET_TIME_BITS) + spent);
  }
}

/* Busy time in the buckets from `first` up to, but not with, `end`. */
static uint64_t window_sum(const struct sg_window *window, uint64_t first, uint64_t end) {
  uint64_t sum = 0;
  for (uint64_t number = first; number < end; number++) {
    uint64_t bucket = window->bucket[number % SG_BUCKETS];
    if (bucket >> SG_BUCKET_TIME_BITS == number) sum += bucket & ((1u << SG_BUCKET_TIME_BITS) - 1);
  }
  return sum;
}

int sg_utilisation(int card, uint32_t pid, uint64_t window_ns, unsigned *percent) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint64_t end = sg_state->time_ns >> SG_BUCKET_SHIFT;
  uint64_t buckets = window_ns >> SG_BUCKET_SHIFT;
  if (buckets < 1) buckets = 1;
  if (buckets > SG_BUCKETS - 2) buckets = SG_BUCKETS - 2;
  uint64_t sum = pid ? 0 : window_sum(&sg_state->card[card].window, end - buckets, end);
  for (uint32_t slot = 1; pid && slot < sg_state->process_pool.fresh; slot++) {
    const struct sg_process *process = &sg_state->process[slot];
    if (process->state == SG_PROCESS_LIVE && sg_pid_seen(slot) == pid)
      sum += window_sum(&process->usage[card].window, end - buckets, end);
  }
  *percent = (unsigned)((sum * 100 + (buckets << SG_BUCKET_SHIFT) / 2) / (buckets << SG_BUCKET_SHIFT));
  if (*percent > 100) *percent = 100;
  sg_unlock();
  return SG_OK;
}

/* ---- processes ---- */

static bool has_used(const struct sg_usage *usage) {
  return usage->contexts || usage->memory_bytes || usage->busy_ns || usage->copy_ns || usage->kernels;
}

void sg_usage_retire(uint32_t slot) {
  static const struct sg_usage nothing;
  struct sg_process *process = &sg_state->process[slot];
  struct sg_cgroup *cgroup = &sg_state->cgroup[process->cgroup];
  for (int card = 0; card < sg_state->machine.cards; card++) {
    struct sg_usage *usage = &process->usage[card];
    if (!has_used(usage)) continue;
    struct sg_finished *row = &sg_state->finished[sg_state->finished_count % SG_HISTORY];
    struct sg_finished finished = {.card = (uint32_t)card, .own_pid = process->own_pid,
        .start_ticks = process->start_ticks, .busy_ns = usage->busy_ns, .copy_ns = usage->copy_ns,
        .kernels = usage->kernels, .ended_ns = sg_state->time_ns};
    memcpy(finished.comm, process->comm, sizeof finished.comm);
    memcpy(finished.cgroup, cgroup->path, sizeof finished.cgroup);
    sg_set_bytes(row, &finished, sizeof finished);
    SG_ADD(sg_state->finished_count, 1);
    SG_ADD(cgroup->card[card].past_busy_ns, usage->busy_ns);
    SG_ADD(cgroup->card[card].past_copy_ns, usage->copy_ns);
    SG_ADD(cgroup->card[card].past_kernels, usage->kernels);
    sg_set_bytes(usage, &nothing, sizeof nothing);
  }
}

static void fill_row(struct sg_process_usage *row, uint32_t slot, int card) {
  const struct sg_process *process = &sg_state->process[slot];
  const struct sg_usage *usage = &process->usage[card];
  *row = (struct sg_process_usage){.pid = sg_pid_seen(slot), .own_pid = process->own_pid,
      .start_ticks = process->start_ticks, .memory_bytes = usage->memory_bytes, .busy_ns = usage->busy_ns,
      .copy_ns = usage->copy_ns, .kernels = usage->kernels, .live_contexts = usage->contexts};
  memcpy(row->comm, process->comm, sizeof row->comm);
  memcpy(row->cgroup, sg_state->cgroup[process->cgroup].path, sizeof row->cgroup);
}

int sg_processes(int card, struct sg_process_usage *rows, unsigned capacity, unsigned *count) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  sg_sweep();
  *count = 0;
  for (uint32_t slot = 1; slot < sg_state->process_pool.fresh; slot++) {
    if (sg_state->process[slot].state != SG_PROCESS_LIVE || !has_used(&sg_state->process[slot].usage[card])) continue;
    if (*count < capacity) fill_row(&rows[*count], slot, card);
    ++*count;
  }
  sg_unlock();
  return SG_OK;
}

int sg_finished_processes(int card, struct sg_process_usage *rows, unsigned capacity, unsigned *count) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  sg_sweep();
  *count = 0;
  uint64_t newest = sg_state->finished_count;
  for (uint64_t i = newest; i > 0 && newest - i < SG_HISTORY; i--) {
    const struct sg_finished *finished = &sg_state->finished[(i - 1) % SG_HISTORY];
    if (finished->card != (uint32_t)card) continue;
    if (*count < capacity) {
      struct sg_process_usage *row = &rows[*count];
      *row = (struct sg_process_usage){.own_pid = finished->own_pid, .start_ticks = finished->start_ticks,
          .busy_ns = finished->busy_ns, .copy_ns = finished->copy_ns, .kernels = finished->kernels};
      memcpy(row->comm, finished->comm, sizeof row->comm);
      memcpy(row->cgroup, finished->cgroup, sizeof row->cgroup);
    }
    ++*count;
  }
  sg_unlock();
  return SG_OK;
}

/* ---- cgroups ---- */

static bool cgroup_row(struct sg_cgroup_usage *row, uint32_t index, int card) {
  const struct sg_cgroup *cgroup = &sg_state->cgroup[index];
  const struct sg_cgroup_card *past = &cgroup->card[card];
  *row = (struct sg_cgroup_usage){.busy_ns = past->past_busy_ns, .copy_ns = past->past_copy_ns,
      .kernels = past->past_kernels, .hard_bytes = past->hard_bytes, .soft_bytes = past->soft_bytes};
  memcpy(row->cgroup, cgroup->path, sizeof row->cgroup);
  for (uint32_t slot = 1; slot < sg_state->process_pool.fresh; slot++) {
    const struct sg_process *process = &sg_state->process[slot];
    const struct sg_usage *usage = &process->usage[card];
    if (process->state != SG_PROCESS_LIVE || process->cgroup != index || !has_used(usage)) continue;
    row->memory_bytes += usage->memory_bytes;
    row->busy_ns += usage->busy_ns;
    row->copy_ns += usage->copy_ns;
    row->kernels += usage->kernels;
    row->live_processes++;
  }
  return row->live_processes || row->busy_ns || row->copy_ns || row->hard_bytes || row->soft_bytes;
}

int sg_cgroups(int card, struct sg_cgroup_usage *rows, unsigned capacity, unsigned *count) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  sg_sweep();
  *count = 0;
  for (uint32_t index = 1; index < sg_state->cgroup_end; index++) {
    struct sg_cgroup_usage row;
    if (!cgroup_row(&row, index, card)) continue;
    if (*count < capacity) rows[*count] = row;
    ++*count;
  }
  sg_unlock();
  return SG_OK;
}

/* ---- the card ---- */

int sg_card_usage(int index, struct sg_card_usage *usage) {
  if (!sg_card(index)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  sg_sweep();
  const struct sg_card_state *card = &sg_state->card[index];
  *usage = (struct sg_card_usage){
      .used_bytes = (uint64_t)(card->granules - card->granules_free) * SG_GRANULE_BYTES,
      .free_bytes = (uint64_t)card->granules_free * SG_GRANULE_BYTES, .busy_ns = card->busy_ns,
      .copy_ns = card->copy_ns, .since_ns = sg_state->created_ns,
      .idle_ns = sg_state->time_ns - sg_state->created_ns - card->busy_ns, .xid_count = card->xid_count,
      .last_xid = card->xid_count ? card->xids[(card->xid_count - 1) % SG_XID_RING] : 0, .lost = card->lost};
  sg_unlock();
  return SG_OK;
}
