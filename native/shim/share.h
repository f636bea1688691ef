/* share.h - memory that the tenant's processes hand to each other: known by a digest of what is handed
 * over (the bytes of a handle, or the identity of a file), charged to the exporter alone. */
#ifndef CGPU_SHIM_SHARE_H
#define CGPU_SHIM_SHARE_H

#include "memory.h"

/* Of the bytes of a handle. Never 0. */
uint64_t cg_digest(const void *bytes, size_t size);
/* Of an OS handle as cuMemExportToShareableHandle gives it and its import takes it; 0 when the type
 * has no identity that both sides can see, or the descriptor is not open. */
uint64_t cg_digest_shareable(const void *handle, CUmemAllocationHandleType type, bool import);

/* Lets the tenant's other processes open it. In a process that is no tenant: nothing. */
void cg_export_offer(uint64_t digest);
/* Whether this process may open it; then it counts as one that holds it open until cg_export_leave.
 * True in a process that is no tenant. */
bool cg_export_open(uint64_t digest);
void cg_export_leave(uint64_t digest);
/* Whether living processes hold open what this one offered. */
bool cg_export_held(uint64_t digest);
void cg_export_withdraw(uint64_t digest);

/* A block that this process has freed: returns its charge, now or, when it was exported and others
 * still hold it open, with the last of them. */
void cg_exported_block_return(const struct cg_block *block);
/* The same for memory that is no CG_KIND_POINTER; digest 0: never exported. */
void cg_exported_return(int gpu, uint64_t bytes, uint64_t digest);
/* Returns what was waiting for others to let go. True: there was something. */
bool cg_exports_settle(int gpu);

#endif
