/* table.c - open addressing with linear probing; removal closes the gap instead of marking it, so
 * that a table that lives long and changes much stays as fast as a new one. */
#include "table.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define FIRST_CAPACITY 128 /* rows; one page */

static size_t home(const struct cg_table *table, uint64_t key) {
  key ^= key >> 32; /* pointers differ in the middle, multiples of large powers of two included */
  key *= 0x9e3779b97f4a7c15ull;
  return (size_t)(key >> 32 ^ key >> 13) & (table->capacity - 1);
}

struct cg_row *cg_table_find(const struct cg_table *table, uint64_t key) {
  if (!table->capacity) return NULL;
  for (size_t i = home(table, key);; i = (i + 1) & (table->capacity - 1)) {
    if (table->rows[i].key == key) return &table->rows[i];
    if (!table->rows[i].key) return NULL;
  }
}

static void set_used(struct cg_table *table, size_t used) { __atomic_store_n(&table->used, used, __ATOMIC_RELAXED); }

/* In the place of the row of the same key, or in a place of its own, of which there has to be one. */
static struct cg_row *place(struct cg_table *table, const struct cg_row *row) {
  size_t i = home(table, row->key);
  while (table->rows[i].key && table->rows[i].key != row->key) i = (i + 1) & (table->capacity - 1);
  if (!table->rows[i].key) set_used(table, table->used + 1);
  table->rows[i] = *row;
  return &table->rows[i];
}

static bool grow(struct cg_table *table) {
  struct cg_table larger = {.capacity = table->capacity ? table->capacity * 2 : FIRST_CAPACITY};
  int saved = errno;
  larger.rows = mmap(NULL, larger.capacity * sizeof *larger.rows, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
  errno = saved;
  if (larger.rows == MAP_FAILED) return false;
  for (size_t i = 0; i < table->capacity; i++)
    if (table->rows[i].key) place(&larger, &table->rows[i]);
  if (table->capacity) munmap(table->rows, table->capacity * sizeof *table->rows);
  table->rows = larger.rows;
  table->capacity = larger.capacity;
  return true;
}

struct cg_row *cg_table_put(struct cg_table *table, const struct cg_row *row) {
  /* At most two thirds full; a table that cannot grow may fill up to the last empty place. */
  if (table->used + 1 > table->capacity / 3 * 2 && !grow(table) && table->used + 1 >= table->capacity &&
      !cg_table_find(table, row->key))
    return NULL;
  return place(table, row);
}

void cg_table_remove(struct cg_table *table, struct cg_row *row) {
  const size_t mask = table->capacity - 1;
  size_t gap = (size_t)(row - table->rows);
  for (size_t i = (gap + 1) & mask; table->rows[i].key; i = (i + 1) & mask) {
    /* The row at i may fill the gap unless its home lies behind the gap. */
    if (((i - home(table, table->rows[i].key)) & mask) < ((i - gap) & mask)) continue;
    table->rows[gap] = table->rows[i];
    gap = i;
  }
  memset(&table->rows[gap], 0, sizeof table->rows[gap]);
  set_used(table, table->used - 1);
}

void cg_table_clear(struct cg_table *table) {
  if (table->capacity) munmap(table->rows, table->capacity * sizeof *table->rows);
  table->rows = NULL;
  table->capacity = 0;
  set_used(table, 0);
}
