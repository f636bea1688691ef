/* no_driver.c - for tests of the shim's account and tables alone: a process without libcuda. */
#include "../../shim/memory.h"

_Atomic(const struct cg_driver *) cg_driver_table;
const struct cg_driver *cg_driver_fill(void) { return NULL; }
void cg_gate_after_fork(void) {}
bool cg_stocks_relieve(int gpu) { return (void)gpu, false; }
