/* card_list.c - doubly linked lists and pools of records, by index, undoable. */
#include "card_internal.h"

void sg_list_insert(const struct sg_family *family, struct sg_list *list, uint32_t index, uint32_t next) {
  struct sg_link *link = sg_link_of(family, index);
  uint32_t prev = next ? sg_link_of(family, next)->prev : list->tail;
  SG_SET(link->next, next);
  SG_SET(link->prev, prev);
  if (prev)
    SG_SET(sg_link_of(family, prev)->next, index);
  else
    SG_SET(list->head, index);
  if (next)
    SG_SET(sg_link_of(family, next)->prev, index);
  else
    SG_SET(list->tail, index);
}

void sg_list_append(const struct sg_family *family, struct sg_list *list, uint32_t index) {
  sg_list_insert(family, list, index, 0);
}

void sg_list_remove(const struct sg_family *family, struct sg_list *list, uint32_t index) {
  struct sg_link *link = sg_link_of(family, index);
  if (link->prev)
    SG_SET(sg_link_of(family, link->prev)->next, link->next);
  else
    SG_SET(list->head, link->next);
  if (link->next)
    SG_SET(sg_link_of(family, link->next)->prev, link->prev);
  else
    SG_SET(list->tail, link->prev);
  SG_SET(link->next, 0);
  SG_SET(link->prev, 0);
}

uint32_t sg_pool_take(struct sg_pool *pool, void *table, size_t stride, uint32_t capacity) {
  uint32_t index = pool->free;
  if (index) {
    SG_SET(pool->free, *(uint32_t *)((char *)table + index * stride));
  } else {
    index = pool->fresh ? pool->fresh : 1;
    if (index >= capacity) return 0;
    SG_SET(pool->fresh, index + 1);
  }
  SG_ADD(pool->used, 1);
  return index;
}

void sg_pool_give(struct sg_pool *pool, void *table, size_t stride, uint32_t index) {
  uint32_t *next_free = (uint32_t *)((char *)table + index * stride);
  SG_SET(*next_free, pool->free);
  SG_SET(pool->free, index);
  SG_SET(pool->used, pool->used - 1);
}
