/* reading.h - an input as a row of choices: what is behind its end is zero. */
#ifndef CGPU_FUZZ_READING_H
#define CGPU_FUZZ_READING_H

#include <stdlib.h>
#include <string.h>

#include "engine.h"

struct reading {
  const uint8_t *at, *end;
};

static inline uint64_t take(struct reading *reading, size_t bytes) { /* 1 to 8, little endian */
  uint64_t value = 0;
  size_t left = (size_t)(reading->end - reading->at);
  memcpy(&value, reading->at, bytes < left ? bytes : left);
  reading->at += bytes < left ? bytes : left;
  return value;
}

/* The rest of the input as text with a NUL behind it, in a block of its own size; the caller's to free. */
static inline char *take_text(struct reading *reading) {
  size_t length = (size_t)(reading->end - reading->at);
  char *text = malloc(length + 1);
  if (!text) abort();
  memcpy(text, reading->at, length);
  text[length] = 0;
  reading->at = reading->end;
  return text;
}

/* What must hold whatever the input is; else the fuzzer has found something. */
#define HOLDS(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);    \
      abort();                                                                          \
    }                                                                                   \
  } while (0)

#endif
