/* gate_cost.c - what a function, a graph or a class of copies costs, learnt from markers. */
#include "gate.h"

/* A table without locks: a key, once there, keeps its place. When the neighbourhood of its home is
 * full the home itself is taken over: the loser is measured again at its next launch. */
#define PLACES 4096u
#define NEIGHBOURS 8u

struct place {
  _Atomic(uint64_t) key;
  _Atomic(uint64_t) cost_ns;
};
static struct place places[PLACES];

static unsigned home(uint64_t key) { return (unsigned)(key * 0x9e3779b97f4a7c15u >> 52) % PLACES; }

static struct place *find(uint64_t key) {
  unsigned start = home(key);
  for (unsigned i = 0; i < NEIGHBOURS; i++) {
    struct place *place = &places[(start + i) % PLACES];
    uint64_t found = atomic_load_explicit(&place->key, memory_order_acquire);
    if (found == key) return place;
    if (!found) return NULL;
  }
  return NULL;
}

static struct place *claim(uint64_t key) {
  unsigned start = home(key);
  for (unsigned i = 0; i < NEIGHBOURS; i++) {
    struct place *place = &places[(start + i) % PLACES];
    uint64_t found = 0;
    if (atomic_compare_exchange_strong(&place->key, &found, key) || found == key) return place;
  }
  struct place *place = &places[start];
  atomic_store(&place->cost_ns, 0);
  atomic_store(&place->key, key);
  return place;
}

uint64_t gate_cost_known(uint64_t key) {
  struct place *place = find(key);
  return place ? atomic_load_explicit(&place->cost_ns, memory_order_relaxed) : 0;
}

/* Upwards at once, since too low an estimate lets too much into the queue; downwards by quarters,
 * since one launch with less to do says little about the next. */
void gate_cost_learn(uint64_t key, uint64_t cost_ns) {
  struct place *place = find(key);
  if (!place) place = claim(key);
  uint64_t old_ns = atomic_load(&place->cost_ns);
  if (cost_ns < old_ns) cost_ns = old_ns - (old_ns - cost_ns) / 4;
  atomic_store(&place->cost_ns, cost_ns ? cost_ns : 1);
}
