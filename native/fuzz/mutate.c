/* mutate.c - how one input becomes the next. */
#include <string.h>

#include "engine.h"

static uint64_t state = 1;

uint64_t fuzz_random(void) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545f4914f6cdd1dull;
}

void fuzz_seed(uint64_t seed) { state = seed ? seed : 1; }

static size_t below(size_t limit) { return limit ? (size_t)(fuzz_random() >> 16) % limit : 0; }

/* Makes room for `length` bytes at `at`, as far as there is any; the room made. */
static size_t make_room(uint8_t *input, size_t *size, size_t at, size_t length) {
  if (length > INPUT_MAX - *size) length = INPUT_MAX - *size;
  memmove(input + at + length, input + at, *size - at);
  *size += length;
  return length;
}

static void change_byte(uint8_t *input, size_t size) {
  static const uint8_t edges[] = {0, 1, 2, 0x7f, 0x80, 0xff, '0', '9', '"', '\n', '=', '_', ' ', '\\', '{', '['};
  size_t at = below(size);
  if (!size) return;
  switch (below(4)) {
    case 0: input[at] ^= (uint8_t)(1u << below(8)); break;
    case 1: input[at] = edges[below(sizeof edges)]; break;
    case 2: input[at] = (uint8_t)(input[at] + 1 - 2 * below(2)); break;
    default: input[at] = (uint8_t)fuzz_random(); break;
  }
}

/* A number of 2, 4 or 8 bytes becomes one at the edge of something, or moves a little. */
static void change_number(uint8_t *input, size_t size) {
  size_t width = (size_t)2 << below(3);
  if (size < width) return;
  uint8_t *at = input + below(size - width + 1);
  uint64_t value = 0, power = 1ull << below(64);
  memcpy(&value, at, width);
  switch (below(5)) {
    case 0: value = power; break;
    case 1: value = power - 1; break;
    case 2: value = -power; break;
    case 3: value += below(64) - 32; break;
    default: value ^= power; break;
  }
  memcpy(at, &value, width);
}

static void remove_piece(uint8_t *input, size_t *size) {
  size_t at = below(*size), length = 1 + below(below(2) ? 4 : *size);
  if (!*size) return;
  if (length > *size - at) length = *size - at;
  memmove(input + at, input + at + length, *size - at - length);
  *size -= length;
}

/* A piece of the input once more, or many times: of what is repeated or nested, far too much. */
static void repeat_piece(uint8_t *input, size_t *size) {
  uint8_t piece[64];
  size_t from = below(*size), length = 1 + below(sizeof piece), times = below(4) ? 1 : 1 + below(512);
  if (!*size) return;
  if (length > *size - from) length = *size - from;
  memcpy(piece, input + from, length);
  for (size_t at = below(*size + 1); times; times--) {
    size_t room = make_room(input, size, at, length);
    memcpy(input + at, piece, room);
  }
}

static void take_piece(uint8_t *input, size_t *size, const uint8_t *other, size_t other_size) {
  size_t from = below(other_size), length = 1 + below(below(2) ? 16 : other_size), at = below(*size + 1);
  if (!other_size) return;
  if (length > other_size - from) length = other_size - from;
  if (below(2)) {
    if (length > *size - at) length = *size - at;
  } else {
    length = make_room(input, size, at, length);
  }
  memcpy(input + at, other + from, length);
}

/* What was compared with something is made equal to it, where it stands in the input; or that is put in. */
static void use_token(uint8_t *input, size_t *size) {
  const struct token *token = coverage_token(fuzz_random() >> 16);
  if (!token) return;
  size_t side = below(2), old = token->length[side], new = token->length[!side];
  const uint8_t *found = *size && old <= *size ? memmem(input, *size, token->bytes[side], old) : NULL;
  size_t at = found ? (size_t)(found - input) : below(*size + 1);
  if (found) {
    memmove(input + at, input + at + old, *size - at - old);
    *size -= old;
  } else if (below(2)) { /* over what is there */
    size_t over = *size - at < new ? *size - at : new;
    memcpy(input + at, token->bytes[!side], over);
    return;
  }
  size_t room = make_room(input, size, at, new);
  memcpy(input + at, token->bytes[!side], room);
}

size_t fuzz_mutate(uint8_t input[INPUT_MAX], size_t size, const uint8_t *other, size_t other_size) {
  for (size_t changes = (size_t)1 << below(4); changes; changes--) {
    switch (below(9)) {
      case 0:
      case 1: change_byte(input, size); break;
      case 2:
      case 3: change_number(input, size); break;
      case 4: remove_piece(input, &size); break;
      case 5: repeat_piece(input, &size); break;
      case 6: take_piece(input, &size, other, other_size); break;
      default: use_token(input, &size); break;
    }
  }
  return size;
}
