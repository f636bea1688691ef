/* card_fixture.h - a small simulated machine for one test program, and a look at all its invariants. */
#ifndef CGPU_TESTS_CARD_FIXTURE_H
#define CGPU_TESTS_CARD_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../simgpu/card_internal.h"

#define REQUIRE(condition)                                                              \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);         \
      _exit(1);                                                                         \
    }                                                                                   \
  } while (0)
#define REQUIRE_EQUAL(got, wanted)                                                                           \
  do {                                                                                                       \
    long long got_ = (long long)(got), wanted_ = (long long)(wanted);                                        \
    if (got_ != wanted_) {                                                                                   \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, wanted_);             \
      _exit(1);                                                                                              \
    }                                                                                                        \
  } while (0)
#define OK(call) REQUIRE_EQUAL(call, SG_OK)

#define MILLISECOND 1000000ull
#define CARD_GRANULES 512u
#define CONTEXT_GRANULES 1u

static const char fixture_profile[] =
    "name = \"Simulated test card\"\ndriver_version = \"615.71.09\"\ncards = 2\n"
    "total_bytes = 1_082_130_432\nreserved_bytes = 8_388_608\ncontext_bytes = 2_097_152\n"
    "sm_count = 10\ncc_major = 7\ncc_minor = 5\nmax_threads_per_sm = 1024\nclock_khz = 1_000_000\n"
    "memory_clock_khz = 1_000_000\nbus_width_bits = 256\nl2_bytes = 0\npower_limit_mw = 1\npci_bus = 1\n"
    "pci_device = 0\npci_domain = 0\npci_device_id = 0\nmemory_bytes_per_s = 1\npcie_bytes_per_s = 1\n"
    "timeslice_ns = 1_000_000\ncontext_switch_ns = 10_000\nlaunch_floor_ns = 2_000\nblock_ns = 10_000\n";

static char fixture_folder[4096];

/* Makes a machine of two cards in a new folder below the current one, and joins it. */
static inline void fixture_join(void) {
  REQUIRE(getcwd(fixture_folder, sizeof fixture_folder - 16));
  strcat(fixture_folder, "/machine-XXXXXX");
  REQUIRE(mkdtemp(fixture_folder));
  char path[sizeof fixture_folder + 16];
  snprintf(path, sizeof path, "%s/profile.toml", fixture_folder);
  FILE *file = fopen(path, "w");
  REQUIRE(file && fputs(fixture_profile, file) >= 0 && fclose(file) == 0);
  OK(sg_join_at(fixture_folder, &(struct sg_create){.profile = path}));
}

/* In a forked child: a process of its own. */
static inline void fixture_rejoin(void) { OK(sg_join_at(fixture_folder, NULL)); }

static inline uint64_t fixture_used(int card) {
  uint64_t free_bytes, used_bytes;
  OK(sg_memory(card, &free_bytes, &used_bytes));
  REQUIRE_EQUAL(free_bytes + used_bytes, (uint64_t)CARD_GRANULES * SG_GRANULE_BYTES);
  return used_bytes;
}

/* ---- invariants; the lock is taken for the look ---- */

static inline uint32_t list_length(const struct sg_family *family, const struct sg_list *list) {
  uint32_t count = 0, before = 0;
  for (uint32_t i = list->head; i; before = i, i = sg_link_of(family, i)->next, count++) {
    REQUIRE_EQUAL(sg_link_of(family, i)->prev, before);
    REQUIRE(count < 1u << 20);
  }
  REQUIRE_EQUAL(list->tail, before);
  return count;
}

static inline void check_pool(const struct sg_pool *pool, const void *table, size_t stride, uint32_t used) {
  uint32_t unused = 0;
  for (uint32_t i = pool->free; i; i = *(const uint32_t *)((const char *)table + i * stride), unused++)
    REQUIRE(i < pool->fresh && unused < pool->fresh);
  REQUIRE_EQUAL(pool->used, used);
  REQUIRE_EQUAL(pool->used + unused, pool->fresh ? pool->fresh - 1 : 0);
}
#define CHECK_POOL(pool, table, used) check_pool(&sg_state->pool, sg_state->table, sizeof sg_state->table[0], used)

static inline uint32_t mark_extents(uint8_t *owned, uint32_t first, uint32_t *count) {
  uint32_t granules = 0;
  for (uint32_t part = first; part; part = sg_state->extent[part].next, ++*count) {
    const struct sg_extent *extent = &sg_state->extent[part];
    REQUIRE(extent->count && extent->start + extent->count <= CARD_GRANULES);
    for (uint32_t i = 0; i < extent->count; i++) REQUIRE_EQUAL(owned[extent->start + i]++, 0);
    granules += extent->count;
  }
  return granules;
}

/* Every granule is free or belongs to one object; what the processes hold is what the cards gave. */
static inline void check_memory(void) {
  static uint8_t owned[SG_MAX_CARDS][CARD_GRANULES];
  static uint8_t seen[SG_MAX_OBJECTS];
  uint64_t held[SG_MAX_CARDS] = {0}, charged[SG_MAX_CARDS] = {0};
  uint32_t extents = 0, refs = 0, objects = 0;
  memset(owned, 0, sizeof owned);
  memset(seen, 0, sizeof seen);
  for (int card = 0; card < sg_state->machine.cards; card++) {
    uint32_t granules = mark_extents(owned[card], sg_state->card[card].extents, &extents);
    REQUIRE_EQUAL(granules, sg_state->card[card].granules_free);
    for (uint32_t part = sg_state->card[card].extents, next; part; part = next) {
      next = sg_state->extent[part].next;
      REQUIRE(!next || sg_state->extent[part].start + sg_state->extent[part].count < sg_state->extent[next].start);
    }
  }
  for (uint32_t slot = 1; slot < sg_state->process_pool.fresh; slot++) {
    const struct sg_process *process = &sg_state->process[slot];
    refs += list_length(&SG_REFS, &process->refs);
    for (int card = 0; card < sg_state->machine.cards; card++) charged[card] += process->usage[card].memory_bytes;
    for (uint32_t ref = process->refs.head; ref; ref = sg_state->ref[ref].of_process.next) {
      const struct sg_object *object = &sg_state->object[sg_state->ref[ref].object];
      REQUIRE(sg_state->ref[ref].process == slot && sg_state->ref[ref].count);
      if (seen[sg_state->ref[ref].object]++) continue;
      objects++;
      uint32_t granules = mark_extents(owned[object->card], object->extents, &extents);
      REQUIRE_EQUAL(granules, object->granules);
      held[object->card] += (uint64_t)granules * SG_GRANULE_BYTES;
      REQUIRE(list_length(&SG_HOLDERS, &object->refs) > 0);
    }
  }
  for (int card = 0; card < sg_state->machine.cards; card++) {
    REQUIRE_EQUAL(held[card], charged[card]);
    REQUIRE_EQUAL(held[card] / SG_GRANULE_BYTES + sg_state->card[card].granules_free, CARD_GRANULES);
  }
  CHECK_POOL(extent_pool, extent, extents);
  CHECK_POOL(ref_pool, ref, refs);
  CHECK_POOL(object_pool, object, objects);
}

/* The contexts that have work are those that queue for the engine, and each has its channels. */
static inline void check_contexts(void) {
  uint32_t contexts = 0, channels = 0, fences = 0, runnable = 0, queued = 0;
  for (uint32_t slot = 1; slot < sg_state->process_pool.fresh; slot++) {
    struct sg_process *process = &sg_state->process[slot];
    contexts += list_length(&SG_CONTEXTS, &process->contexts);
    fences += list_length(&SG_FENCES, &process->fences);
    list_length(&SG_DUE, &process->due);
    for (uint32_t i = process->contexts.head; i; i = sg_state->context[i].of_process.next) {
      struct sg_context_record *context = &sg_state->context[i];
      REQUIRE_EQUAL(context->process, slot);
      channels += list_length(&SG_CHANNELS, &context->channels);
      bool works = context->running || list_length(&SG_QUEUE, &context->ready) || context->holds;
      REQUIRE_EQUAL(works, context->queued != 0);
      queued += context->queued;
    }
  }
  for (int card = 0; card < sg_state->machine.cards; card++) {
    const struct sg_card_state *state = &sg_state->card[card];
    runnable += list_length(&SG_RUNNABLE, &state->runnable);
    REQUIRE_EQUAL(state->mode == SG_ENGINE_IDLE, state->runnable.head == 0);
    REQUIRE(state->mode == SG_ENGINE_IDLE || state->loaded == state->runnable.head);
    list_length(&SG_QUEUE, &state->copy[0].queue);
    list_length(&SG_QUEUE, &state->copy[1].queue);
  }
  REQUIRE_EQUAL(runnable, queued);
  list_length(&SG_QUEUE, &sg_state->timers);
  CHECK_POOL(context_pool, context, contexts);
  CHECK_POOL(channel_pool, channel, channels);
  CHECK_POOL(fence_pool, fence, fences);
}

static inline void check_invariants(void) {
  sg_lock();
  REQUIRE_EQUAL(atomic_load(&sg_state->notes), 0);
  sg_pump();
  check_memory();
  check_contexts();
  sg_unlock();
}

#endif
