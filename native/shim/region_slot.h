/* region_slot.h - between the files of the region part, and for account.c. */
#ifndef CGPU_SHIM_REGION_SLOT_H
#define CGPU_SHIM_REGION_SLOT_H

#include "process.h"

/* The tenant's files as mapped; the same in forked children. */
struct cg_files {
  enum cg_region_state state; /* READY: both are mapped */
  const struct cgpu_grants *grants;
  struct cgpu_usage *usage;
  char locks[4096]; /* path of the lock file */
};

/* Finds and maps the files on the first call, says on stderr what is wrong with them. Takes no slot. */
const struct cg_files *cg_files(void);

/* Takes a slot for this process; false, with the cause on stderr, when there is none to be had. The
 * caller holds region_lock. */
bool cg_slot_register(struct cg_process *process);

/* Makes sure that the slot is still this process's own, and takes a new one when it is not; then all
 * that the process holds is charged to the new one. The caller holds account_lock. */
bool cg_slot_hold(struct cg_process *process);

/* Returns what dead processes of this tenant hold on a GPU, when the agent is not there to do it;
 * true when there was something. */
bool cg_slot_reclaim_dead(struct cg_process *process, int gpu);

/* In the child of a fork: lets go of the parent's lock. */
void cg_slot_forget_parent(void);

#endif
