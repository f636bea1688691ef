/* words.h - what regions say of memory and of who holds it, as bytes to be compared (words.c). */
#ifndef CGPU_ARBITER_WORDS_H
#define CGPU_ARBITER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"

struct cgpu_arbiter_files {
  int32_t usage, grants, locks; /* descriptors */
  uint32_t rows;                /* of the GPU table that count, at most CGPU_MAX_GPUS */
};

struct cgpu_words {
  unsigned char *out;
  uint64_t bytes, capacity; /* bytes may become more than there is room for */
  bool work;                /* the time that each tenant has got, too */
};

void cgpu_words_put(struct cgpu_words *words, const void *data, size_t bytes);
void cgpu_words_put_region(struct cgpu_words *words, const struct cgpu_arbiter_files *files);

#endif
