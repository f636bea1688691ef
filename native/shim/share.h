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
/* The descriptor that an export has handed out; -1 where it is none. */
static inline int cg_shareable_descriptor(const void *handle, CUmemAllocationHandleType type) {
  return type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ? *(const int *)handle : -1;
}

/* Lets the tenant's other processes open what the digest names, a piece of `object`: a device pointer,
 * an allocation handle, a pool. A descriptor that was handed out holds the memory too; else -1. In a
 * process that is no tenant: nothing. */
void cg_export_offer(uint64_t digest, uint64_t object, int fd);
/* Whether this process may open it; then it counts as one that holds it open until cg_export_leave.
 * True in a process that is no tenant. */
bool cg_export_open(uint64_t digest);
void cg_export_leave(uint64_t digest);

/* Closes what the context had open of other processes (cuIpcOpenMemHandle): it has ended. */
void cg_imports_drop_context(CUcontext context);

/* Memory that this process has let go: returns its charge, now or, when it was exported and others may
 * still have it, with the last of them (cg_exports_settle). `exported`: whether it ever was. */
void cg_exported_return(int gpu, uint64_t bytes, uint64_t object, bool exported);
/* The same for a CG_KIND_POINTER. */
void cg_exported_block_return(const struct cg_block *block);
/* Whether other processes may still have something of the object, which this process has offered. */
bool cg_exported_held(uint64_t object);
/* Returns what was waiting for others to let go. */
void cg_exports_settle(int gpu);

#endif
