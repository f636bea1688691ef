/* inside_region.h - the tenant's region as a value, read by one of its own processes. */
#ifndef CGPU_PROGRAMS_INSIDE_REGION_H
#define CGPU_PROGRAMS_INSIDE_REGION_H

#include <stdbool.h>

#include "region.h"

struct inside {
  const char *folder;
  bool simulated;
  struct cgpu_grants grants;
  struct cgpu_usage usage;
  bool alive[CGPU_MAX_SLOTS]; /* the slot is in use, and its owner holds its lock */
};

/* Reads the region of this process; false, with the cause said, when there is none or it is unusable. */
bool inside_read(struct inside *inside);

/* Bytes charged to a slot on a GPU row, as region/words.py:effective_units. */
uint64_t inside_charge(const struct inside *inside, unsigned slot, unsigned row);

/* Bytes charged to the tenant on a GPU row, without the overhead. */
uint64_t inside_account(const struct inside *inside, unsigned row);

#endif
