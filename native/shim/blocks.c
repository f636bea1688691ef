/* blocks.c - the live blocks of this process: what each is charged, so that a free can return it. */
#include "memory.h"
#include "process.h"

/* A row of a table: key, bytes, context, and the small fields in one word. */
static struct cg_row row_of(const struct cg_block *block) {
  return (struct cg_row){block->key,
                         {block->bytes, (uint64_t)(uintptr_t)block->context,
                          (uint64_t)block->gpu | (uint64_t)block->references << 8}};
}

static struct cg_block block_of(enum cg_kind kind, const struct cg_row *row) {
  return (struct cg_block){.key = row->key,
                           .bytes = row->value[0],
                           .context = (CUcontext)(uintptr_t)row->value[1],
                           .kind = (uint8_t)kind,
                           .gpu = (uint8_t)row->value[2],
                           .references = (uint16_t)(row->value[2] >> 8)};
}

bool cg_block_add(const struct cg_block *block) {
  struct cg_process *process = cg_process();
  struct cg_row row = row_of(block);
  cg_lock_take(&process->block_lock);
  bool added = cg_table_put(&process->blocks[block->kind], &row) != NULL;
  cg_lock_give(&process->block_lock);
  return added;
}

static bool look(enum cg_kind kind, uint64_t key, struct cg_block *found, bool take) {
  struct cg_process *process = cg_process();
  if (cg_table_empty(&process->blocks[kind])) return false;
  cg_lock_take(&process->block_lock);
  struct cg_row *row = key ? cg_table_find(&process->blocks[kind], key) : NULL;
  if (row) *found = block_of(kind, row);
  if (row && take) cg_table_remove(&process->blocks[kind], row);
  cg_lock_give(&process->block_lock);
  return row != NULL;
}

bool cg_block_find(enum cg_kind kind, uint64_t key, struct cg_block *found) { return look(kind, key, found, false); }
bool cg_block_take(enum cg_kind kind, uint64_t key, struct cg_block *removed) { return look(kind, key, removed, true); }

int cg_block_count(enum cg_kind kind, uint64_t key, int change) {
  struct cg_process *process = cg_process();
  int count = -1;
  cg_lock_take(&process->block_lock);
  struct cg_row *row = key ? cg_table_find(&process->blocks[kind], key) : NULL;
  if (row) {
    struct cg_block block = block_of(kind, row);
    count = block.references + change;
    block.references = (uint16_t)count;
    *row = row_of(&block);
    if (!count) cg_table_remove(&process->blocks[kind], row);
  }
  cg_lock_give(&process->block_lock);
  return count;
}

/* ---- granules of small blocks ---- */

static uint64_t page_key(uint64_t address) { return address / CG_GRANULE_BYTES + 1; }

unsigned cg_pages_enter(uint64_t address, uint64_t bytes) {
  struct cg_process *process = cg_process();
  unsigned fresh = 0;
  cg_lock_take(&process->block_lock);
  for (uint64_t page = page_key(address); page <= page_key(address + bytes - 1); page++) {
    struct cg_row *row = cg_table_find(&process->pages, page);
    if (row) {
      row->value[0]++;
      continue;
    }
    cg_table_put(&process->pages, &(struct cg_row){page, {1, 0, 0}}); /* without memory for it: charged for good */
    fresh++;
  }
  cg_lock_give(&process->block_lock);
  return fresh;
}

static unsigned leave_pages(struct cg_process *process, uint64_t address, uint64_t bytes) {
  unsigned left = 0;
  for (uint64_t page = page_key(address); page <= page_key(address + bytes - 1); page++) {
    struct cg_row *row = cg_table_find(&process->pages, page);
    if (!row || --row->value[0]) continue;
    cg_table_remove(&process->pages, row);
    left++;
  }
  return left;
}

unsigned cg_pages_leave(uint64_t address, uint64_t bytes) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->block_lock);
  unsigned left = leave_pages(process, address, bytes);
  cg_lock_give(&process->block_lock);
  return left;
}

/* ---- returning ---- */

static bool is_small(const struct cg_block *block) {
  return block->kind == CG_KIND_POINTER && block->bytes < CG_SMALL_BYTES;
}

void cg_block_return(const struct cg_block *block) {
  uint64_t bytes =
      is_small(block) ? cg_pages_leave(block->key, block->bytes) * CG_GRANULE_BYTES : block->bytes;
  if (block->kind == CG_KIND_POINTER && block->references == CG_MANAGED_REFERENCE)
    cg_note_managed(block->gpu, -(int64_t)bytes);
  if (cg_kind_estimated(block->kind)) cg_return_estimate(block->gpu, bytes);
  else cg_return(block->gpu, bytes);
}

void cg_blocks_move_context(CUcontext from, CUcontext to) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->block_lock);
  for (int kind = 0; kind < CG_MAX_KINDS; kind++)
    for (size_t i = 0; i < process->blocks[kind].capacity; i++) {
      struct cg_row *row = &process->blocks[kind].rows[i];
      if (row->key && row->value[1] == (uint64_t)(uintptr_t)from) row->value[1] = (uint64_t)(uintptr_t)to;
    }
  cg_lock_give(&process->block_lock);
}

uint64_t cg_block_next(enum cg_kind kind, size_t *cursor, struct cg_block *found) {
  struct cg_process *process = cg_process();
  uint64_t key = 0;
  cg_lock_take(&process->block_lock);
  while (!key && *cursor < process->blocks[kind].capacity) {
    const struct cg_row *row = &process->blocks[kind].rows[(*cursor)++];
    if (!row->key) continue;
    key = row->key;
    *found = block_of(kind, row);
  }
  cg_lock_give(&process->block_lock);
  return key;
}

/* With block_lock held. The object's handle may be used again for another one, so what waits gets a name
 * that no handle has, and so do its offers. */
static bool outlive(struct cg_process *process, uint64_t object, uint8_t gpu, uint64_t bytes) {
  const uint64_t name = ~++process->objects_outlived;
  struct cg_table *offered = &process->blocks[CG_KIND_OFFERED];
  if (!cg_table_put(&process->blocks[CG_KIND_EXPORTED], &(struct cg_row){name, {bytes, 0, gpu}})) return false;
  for (size_t i = 0; i < offered->capacity; i++)
    if (offered->rows[i].key && offered->rows[i].value[0] == object) offered->rows[i].value[0] = name;
  return true;
}

bool cg_block_outlive(uint64_t object, int gpu, uint64_t bytes) {
  struct cg_process *process = cg_process();
  cg_stocks_watch();
  cg_lock_take(&process->block_lock);
  bool waits = outlive(process, object, (uint8_t)gpu, bytes);
  cg_lock_give(&process->block_lock);
  return waits;
}

void cg_blocks_drop_context(CUcontext context) {
  struct cg_process *process = cg_process();
  struct totals {
    uint64_t sized, estimated, managed;
  } total[CGPU_MAX_GPUS] = {{0}};
  cg_lock_take(&process->block_lock);
  for (int kind = 0; kind < CG_MAX_KINDS; kind++) {
    if (kind == CG_KIND_IMPORTED) continue; /* not charged here; see cg_imports_drop_context */
    struct cg_table *table = &process->blocks[kind];
    for (size_t i = 0; i < table->capacity;) {
      struct cg_row *row = &table->rows[i];
      struct cg_block block = block_of(kind, row);
      if (!row->key || block.context != context) {
        i++;
        continue;
      }
      uint64_t bytes = is_small(&block) ? leave_pages(process, block.key, block.bytes) * CG_GRANULE_BYTES : block.bytes;
      struct cg_row *exported = kind == CG_KIND_POINTER ? cg_table_find(&process->blocks[CG_KIND_IPC], row->key) : NULL;
      struct totals *sums = &total[block.gpu % CGPU_MAX_GPUS];
      if (exported && outlive(process, row->key, block.gpu, bytes)) {
        cg_table_remove(&process->blocks[CG_KIND_IPC], exported);
        bytes = 0;
      }
      *(cg_kind_estimated(kind) ? &sums->estimated : &sums->sized) += bytes;
      if (kind == CG_KIND_POINTER && block.references == CG_MANAGED_REFERENCE) sums->managed += bytes;
      cg_table_remove(table, row); /* another row may have moved here: look at i again */
    }
  }
  cg_lock_give(&process->block_lock);
  for (int gpu = 0; gpu < (int)CGPU_MAX_GPUS; gpu++) {
    if (total[gpu].managed) cg_note_managed(gpu, -(int64_t)total[gpu].managed);
    cg_return(gpu, total[gpu].sized);
    cg_return_estimate(gpu, total[gpu].estimated);
  }
}
