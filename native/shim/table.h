/* table.h - a hash table from a non-zero 64-bit key to three words; constant time at any size.
 *
 * Its memory comes from mmap, never from the program's allocator, which may be the caller. Zeroed
 * memory is an empty table. Not thread safe: the owner locks.
 */
#ifndef CGPU_SHIM_TABLE_H
#define CGPU_SHIM_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cg_row {
  uint64_t key; /* 0: the place is empty */
  uint64_t value[3];
};

struct cg_table {
  struct cg_row *rows; /* capacity of them; null while capacity is 0 */
  size_t capacity;     /* a power of two, or 0 */
  size_t used;
};

/* Whether it has no rows; without the lock too, for those whose own row is there or is not. */
static inline bool cg_table_empty(const struct cg_table *table) {
  return !__atomic_load_n(&table->used, __ATOMIC_RELAXED);
}
/* The row of the key, or null. Valid until the table is changed; its values may be written. */
struct cg_row *cg_table_find(const struct cg_table *table, uint64_t key);
/* Adds a row, or overwrites the one of that key; null when there is no memory for it. */
struct cg_row *cg_table_put(struct cg_table *table, const struct cg_row *row);
/* Removes a row that was found in this table. Rows behind it may move into its place. */
void cg_table_remove(struct cg_table *table, struct cg_row *row);
/* Forgets all rows and gives the memory back. */
void cg_table_clear(struct cg_table *table);

#endif
