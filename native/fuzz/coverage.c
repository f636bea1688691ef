/* coverage.c - which edges of the program a run takes, and what it compares: the calls that
 * -fsanitize-coverage=trace-pc,trace-cmp puts into the code under test (GCC 8 and later, clang), and the hooks that
 * the address sanitizer calls from string functions. This file itself is compiled without them. */
#include <string.h>

#include "engine.h"

#define MAP_SIZE (1u << 16)

static uint8_t counts[MAP_SIZE]; /* of the run */
static uint8_t known[MAP_SIZE];  /* one bit for each magnitude of a count that was met */
static unsigned edges;
static uintptr_t previous;

extern const char __executable_start[]; /* so that an edge has the same number wherever the program lies */

void __sanitizer_cov_trace_pc(void) {
  uintptr_t here = (uintptr_t)__builtin_return_address(0) - (uintptr_t)__executable_start;
  uint8_t *count = &counts[(here * 0x9E3779B97F4A7C15ull >> 48 ^ previous) % MAP_SIZE];
  if (*count != UINT8_MAX) ++*count;
  previous = here * 0x9E3779B97F4A7C15ull >> 49;
}

void coverage_begin(void) {
  memset(counts, 0, sizeof counts);
  previous = 0;
}

/* 1, 2, 3, 4-7, 8-15, 16-31, 32-127, more: one bit each. */
static uint8_t magnitude(uint8_t count) {
  if (count <= 3) return (uint8_t)(1u << (count - 1));
  return (uint8_t)(count < 8 ? 8 : count < 16 ? 16 : count < 32 ? 32 : count < 128 ? 64 : 128);
}

bool coverage_new(void) {
  bool fresh = false;
  for (size_t i = 0; i < MAP_SIZE; i += sizeof(uint64_t)) {
    uint64_t eight;
    memcpy(&eight, counts + i, sizeof eight);
    for (size_t k = i; eight && k < i + sizeof eight; k++) {
      if (!counts[k] || known[k] & magnitude(counts[k])) continue;
      edges += !known[k];
      known[k] |= magnitude(counts[k]);
      fresh = true;
    }
  }
  return fresh;
}

unsigned coverage_edges(void) { return edges; }

/* ---- what is compared ---- */

static struct token tokens[TOKENS];
static uint64_t token_count;

const struct token *coverage_token(uint64_t random) {
  uint64_t kept = token_count < TOKENS ? token_count : TOKENS;
  return kept ? &tokens[random % kept] : NULL;
}

static void note(const void *left, size_t left_length, const void *right, size_t right_length) {
  if (!left_length || !right_length || left_length > TOKEN_MAX || right_length > TOKEN_MAX) return;
  struct token *token = &tokens[token_count++ % TOKENS];
  memcpy(token->bytes[0], left, left_length);
  memcpy(token->bytes[1], right, right_length);
  token->length[0] = (uint8_t)left_length;
  token->length[1] = (uint8_t)right_length;
}

#define TRACE(name, type)                                  \
  void __sanitizer_cov_trace_##name(type left, type right) { \
    if (left != right) note(&left, sizeof left, &right, sizeof right); \
  }
TRACE(cmp2, uint16_t)
TRACE(cmp4, uint32_t)
TRACE(cmp8, uint64_t)
TRACE(const_cmp2, uint16_t)
TRACE(const_cmp4, uint32_t)
TRACE(const_cmp8, uint64_t)
/* Of single bytes there are few enough to guess. */
void __sanitizer_cov_trace_cmp1(uint8_t left, uint8_t right) { (void)left, (void)right; }
void __sanitizer_cov_trace_const_cmp1(uint8_t left, uint8_t right) { (void)left, (void)right; }
void __sanitizer_cov_trace_cmpf(float left, float right) { (void)left, (void)right; }
void __sanitizer_cov_trace_cmpd(double left, double right) { (void)left, (void)right; }
void __sanitizer_cov_trace_switch(uint64_t value, void *table) {
  const uint64_t *cases = table; /* count, bits, then the cases */
  for (uint64_t i = 0; i < cases[0] && i < 16; i++) note(&value, cases[1] / 8, &cases[2 + i], cases[1] / 8);
}

static void note_strings(const char *left, const char *right, size_t most) {
  note(left, strnlen(left, most), right, strnlen(right, most));
}
void __sanitizer_weak_hook_memcmp(void *pc, const void *left, const void *right, size_t size, int result) {
  (void)pc;
  if (result) note(left, size, right, size);
}
void __sanitizer_weak_hook_strncmp(void *pc, const char *left, const char *right, size_t size, int result) {
  (void)pc;
  if (result) note_strings(left, right, size < TOKEN_MAX ? size : TOKEN_MAX);
}
void __sanitizer_weak_hook_strcmp(void *pc, const char *left, const char *right, int result) {
  (void)pc;
  if (result) note_strings(left, right, TOKEN_MAX);
}
void __sanitizer_weak_hook_strstr(void *pc, const char *text, const char *word, char *result) {
  (void)pc;
  if (!result) note_strings(text, word, TOKEN_MAX);
}
void __sanitizer_weak_hook_memmem(void *pc, const void *text, size_t size, const void *word, size_t length, void *result) {
  (void)pc;
  if (!result && size) note(text, size < length ? size : length, word, length);
}
