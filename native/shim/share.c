/* share.c - the tenant's table of exports, in `usage`: who offers what, who holds it open. */
#include "share.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "process.h"

/* ---- digests ---- */

uint64_t cg_digest(const void *bytes, size_t size) { /* FNV-1a, then mixed */
  uint64_t digest = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < size; i++) digest = (digest ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3ull;
  digest ^= digest >> 29;
  return digest ? digest : 1;
}

uint64_t cg_digest_shareable(const void *handle, CUmemAllocationHandleType type, bool import) {
  if (!handle && type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return 0;
  if (type == CU_MEM_HANDLE_TYPE_FABRIC) return cg_digest(handle, sizeof(CUmemFabricHandle));
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || (!import && !handle)) return 0;
  int fd = import ? (int)(uintptr_t)handle : *(const int *)handle, saved = errno;
  struct stat status;
  int failed = fstat(fd, &status);
  errno = saved;
  if (failed) return 0;
  uint64_t identity[3] = {status.st_dev, status.st_ino, status.st_rdev};
  return cg_digest(identity, sizeof identity);
}

/* ---- the table ---- */

static uint64_t self_word(void) {
  const struct cg_process *process = cg_process();
  return process->claim << CGPU_ACCOUNT_SLOT_BITS | process->region.slot;
}

/* A process that was killed counts as living until its slot is reclaimed, which is when the card has
 * released what it held. */
static bool living(const struct cgpu_usage *usage, uint64_t word) {
  unsigned slot = word & ((1u << CGPU_ACCOUNT_SLOT_BITS) - 1);
  if (!word || slot >= CGPU_MAX_SLOTS) return false;
  const struct cgpu_usage_slot_header *header = &usage->slot[slot].header;
  return __atomic_load_n(&header->claim, __ATOMIC_ACQUIRE) == word >> CGPU_ACCOUNT_SLOT_BITS &&
         __atomic_load_n(&header->state, __ATOMIC_ACQUIRE) == CGPU_SLOT_LIVE;
}

static uint64_t load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static bool swap(uint64_t *word, uint64_t from, uint64_t to) {
  return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static bool row_held(const struct cgpu_usage *usage, const struct cgpu_usage_export *row) {
  for (unsigned i = 0; i < CGPU_EXPORT_IMPORTERS; i++)
    if (living(usage, load(&row->importer[i]))) return true;
  return false;
}

/* The living row of a digest; with an owner given, that owner's. */
static struct cgpu_usage_export *find_row(struct cgpu_usage *usage, uint64_t digest, uint64_t owner) {
  for (unsigned i = 0; digest && i < CGPU_MAX_EXPORTS; i++) {
    struct cgpu_usage_export *row = &usage->exports[(digest + i) % CGPU_MAX_EXPORTS];
    uint64_t found = load(&row->owner);
    if (load(&row->key) == digest && (owner ? found == owner : living(usage, found))) return row;
  }
  return NULL;
}

static struct cgpu_usage *table(void) {
  const struct cg_region *region = cg_region();
  return region->state == CG_REGION_READY ? region->usage : NULL;
}

/* ---- offering and opening ---- */

void cg_export_offer(uint64_t digest, uint64_t object, int fd) {
  struct cgpu_usage *usage = table();
  struct cg_block known, offer = {.key = digest, .bytes = object, .kind = CG_KIND_OFFERED,
                           .references = fd < UINT16_MAX ? (uint16_t)(fd + 1) : 0};
  if (!usage || !digest || cg_block_find(CG_KIND_OFFERED, digest, &known) || !cg_block_add(&offer)) return;
  uint64_t self = self_word();
  for (unsigned i = 0; i < CGPU_MAX_EXPORTS; i++) {
    struct cgpu_usage_export *row = &usage->exports[(digest + i) % CGPU_MAX_EXPORTS];
    uint64_t owner = load(&row->owner);
    if (living(usage, owner) || row_held(usage, row) || !swap(&row->owner, owner, self)) continue;
    memset(row->importer, 0, sizeof row->importer);
    __atomic_store_n(&row->key, digest, __ATOMIC_RELEASE);
    return;
  }
  cg_say("the tenant shares more than %u blocks between its processes; further ones cannot be opened [CGPU-SHIM-EXPORTS]",
         CGPU_MAX_EXPORTS);
}

bool cg_export_open(uint64_t digest) {
  const struct cg_region *region = cg_region();
  if (region->state == CG_REGION_NONE) return true;
  struct cgpu_usage *usage = table();
  struct cgpu_usage_export *row = usage ? find_row(usage, digest, 0) : NULL;
  if (!row) return false;
  if (cg_block_count(CG_KIND_OPENED, digest, 1) > 0) return true; /* this process has it open already */
  cg_block_add(&(struct cg_block){.key = digest, .kind = CG_KIND_OPENED, .references = 1});
  for (unsigned i = 0; i < CGPU_EXPORT_IMPORTERS; i++) {
    uint64_t importer = load(&row->importer[i]);
    if (!living(usage, importer) && swap(&row->importer[i], importer, self_word())) return true;
  }
  cg_block_count(CG_KIND_OPENED, digest, -1);
  cg_say("more than %u processes of the tenant open the same block [CGPU-SHIM-IMPORTERS]", CGPU_EXPORT_IMPORTERS);
  return false;
}

void cg_export_leave(uint64_t digest) {
  struct cgpu_usage *usage = table();
  if (!usage || cg_block_count(CG_KIND_OPENED, digest, -1) != 0) return;
  for (unsigned i = 0; i < CGPU_MAX_EXPORTS; i++) { /* also where the owner has gone meanwhile */
    struct cgpu_usage_export *row = &usage->exports[(digest + i) % CGPU_MAX_EXPORTS];
    if (load(&row->key) != digest) continue;
    for (unsigned k = 0; k < CGPU_EXPORT_IMPORTERS; k++)
      if (swap(&row->importer[k], self_word(), 0)) return;
  }
}

void cg_imports_drop_context(CUcontext context) {
  struct cg_block import;
  for (size_t cursor = 0; cg_block_next(CG_KIND_IMPORTED, &cursor, &import);) {
    if (import.context != context || !cg_block_take(CG_KIND_IMPORTED, import.key, &import)) continue;
    for (unsigned i = 0; i < import.references; i++) cg_export_leave(import.bytes);
    cursor = 0; /* removing moves rows */
  }
}

/* ---- what outlives its owner's interest in it ---- */

/* Whether an offer may still keep memory: by a process that holds it open, or by the descriptor. */
static bool offer_held(struct cgpu_usage *usage, const struct cg_block *offer) {
  struct cgpu_usage_export *row = find_row(usage, offer->key, self_word());
  if (row && row_held(usage, row)) return true;
  int fd = offer->references - 1;
  return fd >= 0 && cg_digest_shareable(&fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, false) == offer->key;
}

static void withdraw(struct cgpu_usage *usage, uint64_t digest) {
  struct cg_block offer;
  if (!cg_block_take(CG_KIND_OFFERED, digest, &offer)) return;
  struct cgpu_usage_export *row = find_row(usage, digest, self_word());
  if (!row) return;
  __atomic_store_n(&row->key, 0, __ATOMIC_RELEASE);
  __atomic_store_n(&row->owner, 0, __ATOMIC_RELEASE);
}

static bool object_held(struct cgpu_usage *usage, uint64_t object) {
  struct cg_block offer;
  for (size_t cursor = 0; cg_block_next(CG_KIND_OFFERED, &cursor, &offer);)
    if (offer.bytes == object && offer_held(usage, &offer)) return true;
  return false;
}

static void withdraw_object(struct cgpu_usage *usage, uint64_t object) {
  struct cg_block offer;
  for (size_t cursor = 0; cg_block_next(CG_KIND_OFFERED, &cursor, &offer);) {
    if (offer.bytes != object) continue;
    withdraw(usage, offer.key);
    cursor = 0; /* removing moves rows */
  }
}

bool cg_exported_held(uint64_t object) {
  struct cgpu_usage *usage = table();
  if (!usage) return false;
  if (object_held(usage, object)) return true;
  withdraw_object(usage, object);
  return false;
}

void cg_exported_return(int gpu, uint64_t bytes, uint64_t object, bool exported) {
  if (exported && bytes && cg_block_outlive(object, gpu, bytes)) cg_exports_settle(gpu);
  else cg_return(gpu, bytes);
}

void cg_exported_block_return(const struct cg_block *block) {
  struct cg_block export;
  if (block->kind != CG_KIND_POINTER || !cg_block_take(CG_KIND_IPC, block->key, &export)) {
    cg_block_return(block);
    return;
  }
  uint64_t bytes = block->bytes;
  if (bytes < CG_SMALL_BYTES) bytes = cg_pages_leave(block->key, bytes) * CG_GRANULE_BYTES;
  cg_exported_return(block->gpu, bytes, block->key, true);
}

void cg_exports_settle(int gpu) {
  struct cgpu_usage *usage = table();
  struct cg_block waiting;
  for (size_t cursor = 0; usage && cg_block_next(CG_KIND_EXPORTED, &cursor, &waiting);) {
    if (waiting.gpu != gpu || object_held(usage, waiting.key)) continue;
    if (!cg_block_take(CG_KIND_EXPORTED, waiting.key, &waiting)) continue; /* another thread did */
    withdraw_object(usage, waiting.key);
    cg_return(gpu, waiting.bytes);
    cursor = 0; /* removing moves rows */
  }
}
