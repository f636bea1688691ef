// The table of live blocks: against a model, with many blocks, and what is returned when a context ends.
// sources: tests/support/no_driver.c shim/blocks.c shim/table.c shim/account.c shim/region.c shim/region_slot.c shim/say.c
#include <time.h>

#include "../shim/memory.h"
#include "../shim/table.h"
#include "charge.h"
#include "support/check.h"
#include "support/make_region.h"

#define MANY (SANITIZED ? 20000 : 200000)
#define MODEL_KEYS 512

static struct cg_block pointer(uint64_t key, uint64_t bytes, uintptr_t context) {
  return (struct cg_block){.key = key, .bytes = bytes, .context = (CUcontext)context, .kind = CG_KIND_POINTER, .gpu = 1};
}

/* Keys that collide as much as pointers and granule numbers do. */
static void table_against_a_model(void) {
  struct cg_table table = {0};
  uint64_t model[MODEL_KEYS] = {0}, random = 12345;
  size_t used = 0;
  for (int i = 0; i < 400000 / (SANITIZED ? 10 : 1); i++) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    unsigned k = (random >> 33) % MODEL_KEYS;
    uint64_t key = (uint64_t)(k + 1) << 21;
    struct cg_row *row = cg_table_find(&table, key);
    CHECK((row != NULL) == (model[k] != 0) && (!row || row->value[0] == model[k]), "operation %d", i);
    if (failures) return;
    if (model[k]) {
      cg_table_remove(&table, row);
      model[k] = 0;
      used--;
    } else {
      model[k] = random | 1;
      CHECK(cg_table_put(&table, &(struct cg_row){key, {model[k], 0, 0}}) != NULL);
      used++;
    }
    CHECK(table.used == used, "operation %d", i);
  }
  cg_table_clear(&table);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Nanoseconds for one block to come and go among `live` others. */
static double cost_ns(uint64_t live) {
  struct cg_block block;
  for (uint64_t i = 1; i <= live; i++) {
    block = pointer(i << 21, 2 << 20, 8);
    CHECK(cg_block_add(&block));
  }
  double best = 1e9;
  for (int round = 0; round < 5; round++) {
    double begin = seconds();
    for (uint64_t i = 0; i < 20000; i++) {
      block = pointer((live + 1 + i % 64) << 21, 2 << 20, 8);
      CHECK(cg_block_add(&block) && cg_block_take(CG_KIND_POINTER, block.key, &block));
    }
    double cost = (seconds() - begin) / 20000 * 1e9;
    if (cost < best) best = cost;
  }
  for (uint64_t i = 1; i <= live; i++) CHECK(cg_block_take(CG_KIND_POINTER, i << 21, &block));
  return best;
}

static void flat(void) {
  double few = cost_ns(10), many = cost_ns(MANY);
  printf("add and take a block: %.0f ns among 10, %.0f ns among %d\n", few, many, MANY);
  CHECK(many < few * 20, "a search, not a look-up"); /* a list would be thousands of times slower */
}

static void kinds_and_fields(void) {
  struct cg_block block = pointer(7, 123, 40), found;
  block.references = 3;
  CHECK(cg_block_add(&block));
  CHECK(!cg_block_take(CG_KIND_ARRAY, 7, &found) && !cg_block_take(CG_KIND_POINTER, 8, &found));
  CHECK(cg_block_find(CG_KIND_POINTER, 7, &found));
  CHECK(found.key == 7 && found.bytes == 123 && found.context == (CUcontext)40 && found.gpu == 1 && found.references == 3 &&
        found.kind == CG_KIND_POINTER);
  CHECK(cg_block_count(CG_KIND_POINTER, 7, -2) == 1 && cg_block_count(CG_KIND_POINTER, 7, -1) == 0);
  CHECK(!cg_block_find(CG_KIND_POINTER, 7, &found) && cg_block_count(CG_KIND_POINTER, 7, 1) == -1);
}

static void granules(void) {
  const uint64_t base = 64ull << 21;
  CHECK(cg_pages_enter(base, 512) == 1 && cg_pages_enter(base + 512, 512) == 0);
  CHECK(cg_pages_enter(base + (2 << 20) - 256, 512) == 1, "over the edge of two granules");
  CHECK(cg_pages_leave(base, 512) == 0 && cg_pages_leave(base + 512, 512) == 0);
  CHECK(cg_pages_leave(base + (2 << 20) - 256, 512) == 2);
}

/* The end of a context returns what was charged in it, and nothing else. */
static void contexts(void) {
  struct made_region made = make_region(2, 1ull << 34);
  setenv("CGPU_REGION", made.folder, 1);
  struct cgpu_usage_slot_gpu *own = &made.usage->slot[cg_region()->slot].gpu[1];
  struct cg_block block;
  for (uint64_t i = 1; i <= 3000; i++) {
    block = pointer(i << 21, 2 << 20, i % 3 ? 0x1000 : 0x2000);
    CHECK(cg_reserve(1, block.bytes) == CG_GRANTED && cg_block_add(&block));
  }
  block = pointer(5000ull << 21, 512, 0x1000); /* small: its granule is charged */
  CHECK(cg_reserve(1, CG_GRANULE_BYTES) == CG_GRANTED && cg_pages_enter(block.key, 512) == 1 && cg_block_add(&block));
  block = (struct cg_block){.key = 99, .bytes = 4 << 20, .context = (CUcontext)0x1000, .kind = CG_KIND_MODULE, .gpu = 1};
  CHECK(cg_reserve_estimate(1, block.bytes) == CG_GRANTED && cg_block_add(&block));
  CHECK(cgpu_charge_units(own->charge) * CGPU_UNIT_BYTES == 3003ull << 21);
  cg_blocks_move_context((CUcontext)0x1000, (CUcontext)0x1001);
  cg_blocks_drop_context((CUcontext)0x1000);
  CHECK(cgpu_charge_units(own->charge) * CGPU_UNIT_BYTES == 3003ull << 21, "renamed: nothing of that name is left");
  cg_blocks_drop_context((CUcontext)0x1001);
  CHECK(cgpu_charge_units(own->charge) * CGPU_UNIT_BYTES == 1000ull << 21);
  CHECK(own->explicit_bytes == 1000ull << 21);
  CHECK(!cg_block_find(CG_KIND_POINTER, 1 << 21, &block) && cg_block_find(CG_KIND_POINTER, 3 << 21, &block));
  cg_blocks_drop_context((CUcontext)0x2000);
  CHECK(cgpu_charge_units(own->charge) == 0);
  remove_region(&made);
}

int main(void) {
  table_against_a_model();
  flat();
  kinds_and_fields();
  granules();
  contexts();
  return failures != 0;
}
