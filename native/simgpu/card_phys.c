/* card_phys.c - the physical memory of the cards.
 *
 * A card's granules are free extents in order of address; an object takes the first extent that is
 * large enough, or as many as it needs. References are counted per process, so that a process's
 * death gives back exactly what it held. An object counts as the memory of one of its holders, its
 * maker while that lives: so the sum over processes is what the card has given out.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "card_internal.h"

static struct sg_object *object_at(uint32_t index) { return &sg_state->object[index]; }
static struct sg_extent *extent_at(uint32_t index) { return &sg_state->extent[index]; }
static uint64_t bytes_of(const struct sg_object *object) { return (uint64_t)object->granules * SG_GRANULE_BYTES; }

/* ---- extents ---- */

/* Takes up to `want` granules off the front of a free extent; the new extent's index, 0: table full. */
static uint32_t split(uint32_t *link, uint32_t want) {
  uint32_t from = *link;
  if (extent_at(from)->count <= want) {
    SG_SET(*link, extent_at(from)->next);
    return from;
  }
  uint32_t part = SG_TAKE(extent_pool, extent);
  if (!part) return 0;
  SG_SET(extent_at(part)->start, extent_at(from)->start);
  SG_SET(extent_at(part)->count, want);
  SG_ADD(extent_at(from)->start, want);
  SG_SET(extent_at(from)->count, extent_at(from)->count - want);
  return part;
}

static uint32_t *first_fit(struct sg_card_state *card, uint32_t want) {
  for (uint32_t *link = &card->extents; *link; link = &extent_at(*link)->next)
    if (extent_at(*link)->count >= want) return link;
  return &card->extents;
}

static int take_extents(struct sg_card_state *card, struct sg_object *object) {
  uint32_t *last = &object->extents;
  SG_SET(object->extents, 0);
  for (uint32_t left = object->granules; left;) {
    uint32_t part = split(first_fit(card, left), left);
    if (!part) return SG_E_FULL;
    left -= extent_at(part)->count;
    SG_SET(extent_at(part)->next, 0);
    SG_SET(*last, part);
    last = &extent_at(part)->next;
  }
  SG_SET(card->granules_free, card->granules_free - object->granules);
  return SG_OK;
}

/* Puts a free extent between its neighbours by address, and makes one of those that touch. */
static void give_extent(struct sg_card_state *card, uint32_t part) {
  uint32_t *link = &card->extents, before = 0;
  while (*link && extent_at(*link)->start < extent_at(part)->start) {
    before = *link;
    link = &extent_at(*link)->next;
  }
  uint32_t after = *link;
  SG_SET(extent_at(part)->next, after);
  SG_SET(*link, part);
  if (after && extent_at(part)->start + extent_at(part)->count == extent_at(after)->start) {
    SG_ADD(extent_at(part)->count, extent_at(after)->count);
    SG_SET(extent_at(part)->next, extent_at(after)->next);
    SG_GIVE(extent_pool, extent, after);
  }
  if (before && extent_at(before)->start + extent_at(before)->count == extent_at(part)->start) {
    SG_ADD(extent_at(before)->count, extent_at(part)->count);
    SG_SET(extent_at(before)->next, extent_at(part)->next);
    SG_GIVE(extent_pool, extent, part);
  }
}

/* The contents go before the granules count as free: killed in between, they are freed once more. */
static void punch(const struct sg_object *object) {
  int file = sg_vram((int)object->card);
  for (uint32_t part = object->extents; part && file >= 0; part = extent_at(part)->next)
    (void)fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)extent_at(part)->start * SG_GRANULE_BYTES, (off_t)extent_at(part)->count * SG_GRANULE_BYTES);
}

/* ---- whose memory it counts as ---- */

static void charge(const struct sg_object *object, uint32_t process, int sign) {
  struct sg_usage *usage = &sg_state->process[process].usage[object->card];
  uint64_t bytes = bytes_of(object);
  SG_SET(usage->memory_bytes, sign > 0 ? usage->memory_bytes + bytes : usage->memory_bytes - bytes);
  if (object->managed) return;
  struct sg_cgroup_card *card = &sg_state->cgroup[sg_state->process[process].cgroup].card[object->card];
  SG_SET(card->used_bytes, sign > 0 ? card->used_bytes + bytes : card->used_bytes - bytes);
}

static void free_object(uint32_t index) {
  struct sg_object *object = object_at(index);
  struct sg_card_state *card = &sg_state->card[object->card];
  if (object->mapped) punch(object);
  charge(object, object->payer, -1);
  SG_ADD(card->granules_free, object->granules);
  for (uint32_t next, part = object->extents; part; part = next) {
    next = extent_at(part)->next;
    give_extent(card, part);
  }
  SG_SET(object->extents, 0);
  SG_SET(object->granules, 0);
  SG_SET(object->generation, SG_NEXT_GENERATION(object->generation, SG_OBJECT_BITS));
  SG_GIVE(object_pool, object, index);
}

static uint32_t ref_of(uint32_t object, uint32_t process) {
  for (uint32_t ref = object_at(object)->refs.head; ref; ref = sg_state->ref[ref].of_object.next)
    if (sg_state->ref[ref].process == process) return ref;
  return 0;
}

static int add_ref(uint32_t object, uint32_t process) {
  uint32_t index = ref_of(object, process);
  if (index) {
    SG_ADD(sg_state->ref[index].count, 1);
    return SG_OK;
  }
  index = SG_TAKE(ref_pool, ref);
  if (!index) return SG_E_FULL;
  struct sg_ref *ref = &sg_state->ref[index];
  SG_SET(ref->object, object);
  SG_SET(ref->process, process);
  SG_SET(ref->count, 1);
  sg_list_append(&SG_HOLDERS, &object_at(object)->refs, index);
  sg_list_append(&SG_REFS, &sg_state->process[process].refs, index);
  return SG_OK;
}

void sg_ref_drop(uint32_t index, uint32_t count) {
  struct sg_ref *ref = &sg_state->ref[index];
  struct sg_object *object = object_at(ref->object);
  SG_SET(ref->count, ref->count - count);
  if (ref->count) return;
  uint32_t process = ref->process, held = ref->object;
  sg_list_remove(&SG_HOLDERS, &object->refs, index);
  sg_list_remove(&SG_REFS, &sg_state->process[process].refs, index);
  SG_GIVE(ref_pool, ref, index);
  if (!object->refs.head) {
    free_object(held);
  } else if (object->payer == process) {
    uint32_t heir = sg_state->ref[object->refs.head].process;
    charge(object, process, -1);
    charge(object, heir, +1);
    SG_SET(object->payer, heir);
  }
}

/* ---- the interface ---- */

static bool fits(const struct sg_card_state *card, int index, uint64_t granules, bool managed) {
  if (granules > card->granules_free) return false;
  return managed || sg_cgroup_fits(sg_state->process[sg_self].cgroup, index, granules * SG_GRANULE_BYTES);
}

int sg_object_create(int card_index, uint64_t bytes, bool managed, uint32_t *index) {
  struct sg_card_state *card = &sg_state->card[card_index];
  uint64_t granules = bytes / SG_GRANULE_BYTES + (bytes % SG_GRANULE_BYTES != 0);
  if (card->lost) return SG_E_LOST;
  if (granules == 0) return SG_E_INVALID;
  if (card->oom_left) {
    SG_SET(card->oom_left, card->oom_left - 1);
    sg_commit();
    return SG_E_NOMEM;
  }
  if (!fits(card, card_index, granules, managed)) {
    sg_sweep_all();
    if (!fits(card, card_index, granules, managed)) return SG_E_NOMEM;
  }
  *index = SG_TAKE(object_pool, object);
  if (!*index) return SG_E_FULL;
  struct sg_object *object = object_at(*index);
  SG_SET(object->card, (uint32_t)card_index);
  SG_SET(object->granules, (uint32_t)granules);
  SG_SET(object->managed, managed);
  SG_SET(object->mapped, 0);
  SG_SET(object->payer, sg_self);
  if (!object->generation) SG_SET(object->generation, 1);
  int rc = take_extents(card, object);
  if (rc == SG_OK) rc = add_ref(*index, sg_self);
  if (rc == SG_OK) charge(object, sg_self, +1);
  return rc;
}

static int create(int card, uint64_t bytes, bool managed, sg_phys *name) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = 0;
  rc = sg_object_create(card, bytes, managed, &index);
  if (rc == SG_OK)
    *name = SG_NAME(index, object_at(index)->generation, SG_OBJECT_BITS);
  else
    sg_rollback();
  sg_unlock();
  return rc;
}

int sg_phys_create(int card, uint64_t bytes, sg_phys *name) { return create(card, bytes, false, name); }
int sg_phys_create_managed(int card, uint64_t bytes, sg_phys *name) { return create(card, bytes, true, name); }

int sg_phys_retain(sg_phys name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t index = SG_FIND(object, name, SG_OBJECT_BITS);
  rc = index ? add_ref(index, sg_self) : SG_E_INVALID;
  sg_unlock();
  return rc;
}

int sg_phys_release(sg_phys name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = SG_FIND(object, name, SG_OBJECT_BITS);
  uint32_t ref = index ? ref_of(index, sg_self) : 0;
  if (ref)
    sg_ref_drop(ref, 1);
  else
    rc = SG_E_INVALID;
  sg_unlock();
  return rc;
}

int sg_phys_info(sg_phys name, int *card, uint64_t *bytes) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t index = SG_FIND(object, name, SG_OBJECT_BITS);
  if (index) {
    *card = (int)object_at(index)->card;
    *bytes = bytes_of(object_at(index));
  }
  sg_unlock();
  return index ? SG_OK : SG_E_INVALID;
}

static int map_extents(const struct sg_object *object, uint64_t offset, char *address, uint64_t bytes, int prot) {
  int file = sg_vram((int)object->card);
  if (file < 0) return file;
  for (uint32_t part = object->extents; part && bytes; part = extent_at(part)->next) {
    uint64_t length = (uint64_t)extent_at(part)->count * SG_GRANULE_BYTES;
    if (offset >= length) {
      offset -= length;
      continue;
    }
    uint64_t piece = length - offset < bytes ? length - offset : bytes;
    off_t where = (off_t)((uint64_t)extent_at(part)->start * SG_GRANULE_BYTES + offset);
    if (mmap(address, piece, prot, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, where) == MAP_FAILED)
      return SG_E_FULL;
    address += piece;
    bytes -= piece;
    offset = 0;
  }
  return SG_OK;
}

int sg_phys_map(sg_phys name, uint64_t offset, void *address, uint64_t bytes, int prot) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t index = SG_FIND(object, name, SG_OBJECT_BITS);
  struct sg_object *object = object_at(index);
  if (!index || offset > bytes_of(object) || bytes > bytes_of(object) - offset) {
    rc = SG_E_INVALID;
  } else {
    SG_SET(object->mapped, 1);
    sg_commit(); /* before the first page can exist */
    rc = map_extents(object, offset, address, bytes, prot);
  }
  sg_unlock();
  return rc;
}

int sg_memory(int card, uint64_t *free_bytes, uint64_t *used_bytes) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  sg_sweep();
  const struct sg_card_state *state = &sg_state->card[card];
  *free_bytes = (uint64_t)state->granules_free * SG_GRANULE_BYTES;
  *used_bytes = (uint64_t)(state->granules - state->granules_free) * SG_GRANULE_BYTES;
  sg_unlock();
  return SG_OK;
}
