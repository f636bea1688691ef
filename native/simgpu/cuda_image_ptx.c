/* cuda_image_ptx.c - reads PTX as far as a driver without a compiler needs it.
 *
 * Found are: version and target, kernels (.entry) with their parameters, block size directives and
 * static shared memory, and variables in the .global and .const state spaces with integer
 * initialisers (PTX ISA, "State Spaces, Types, and Variables"). Code is not looked at.
 */
#include "cuda_image.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct reader {
  const char *at, *end;
  struct { const char *start; size_t length; } token;
};

static bool word_char(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.'; }

static void skip_blank(struct reader *r) {
  while (r->at < r->end) {
    if (isspace((unsigned char)*r->at)) {
      r->at++;
    } else if (r->end - r->at >= 2 && r->at[0] == '/' && r->at[1] == '/') {
      while (r->at < r->end && *r->at != '\n')
        r->at++;
    } else if (r->end - r->at >= 2 && r->at[0] == '/' && r->at[1] == '*') {
      r->at += 2;
      while (r->end - r->at >= 2 && !(r->at[0] == '*' && r->at[1] == '/'))
        r->at++;
      r->at = r->end - r->at >= 2 ? r->at + 2 : r->end;
    } else {
      return;
    }
  }
}

static void skip_string(struct reader *r) {
  for (r->at++; r->at < r->end && *r->at != '"'; r->at++)
    if (*r->at == '\\' && r->end - r->at >= 2)
      r->at++;
  r->at += r->at < r->end;
}

/* The next word (with its leading dot) or single character; false at the end. */
static bool next(struct reader *r) {
  skip_blank(r);
  if (r->at >= r->end || *r->at == 0)
    return false;
  r->token.start = r->at;
  if (*r->at == '"')
    skip_string(r);
  else if (word_char(*r->at))
    while (r->at < r->end && word_char(*r->at))
      r->at++;
  else
    r->at++;
  r->token.length = (size_t)(r->at - r->token.start);
  return true;
}

static bool is(const struct reader *r, const char *text) {
  return r->token.length == strlen(text) && !memcmp(r->token.start, text, r->token.length);
}

static uint64_t number(const struct reader *r) {
  char text[32];
  size_t length = r->token.length < sizeof text - 1 ? r->token.length : sizeof text - 1;
  memcpy(text, r->token.start, length);
  text[length] = 0;
  return strtoull(text, NULL, 0);
}

/* Bytes of a fundamental type (".u32", ".b8", ".f64", ".pred" counts as none), or 0. */
static unsigned type_bytes(const struct reader *r) {
  const char *t = r->token.start;
  if (r->token.length < 3 || t[0] != '.' || !strchr("bsuf", t[1]))
    return 0;
  uint64_t bits = 0;
  for (size_t i = 2; i < r->token.length; i++) {
    if (!isdigit((unsigned char)t[i]))
      return 0;
    bits = bits * 10 + (uint64_t)(t[i] - '0');
  }
  return bits == 8 || bits == 16 || bits == 32 || bits == 64 || bits == 128 ? (unsigned)(bits / 8) : 0;
}

/* A declared variable or parameter, from behind its state space to its name and dimensions. */
struct variable {
  const char *name;
  size_t name_length;
  uint64_t bytes;
  unsigned alignment, element_bytes;
};

static bool read_dimensions(struct reader *r, struct variable *v) {
  struct reader ahead = *r;
  while (next(&ahead) && is(&ahead, "[")) {
    if (!next(&ahead))
      return false;
    if (!is(&ahead, "]")) { /* an empty dimension is that of dynamic shared memory: no bytes */
      uint64_t count = number(&ahead);
      if (count && v->bytes > UINT64_MAX / 2 / count)
        return false;
      v->bytes *= count;
      if (!next(&ahead) || !is(&ahead, "]"))
        return false;
    } else {
      v->bytes = 0;
    }
    *r = ahead;
  }
  return true;
}

static bool read_variable(struct reader *r, struct variable *v) {
  unsigned vector = 1;
  *v = (struct variable){0};
  while (next(r)) {
    unsigned bytes = type_bytes(r);
    if (is(r, ".align")) {
      if (!next(r))
        return false;
      v->alignment = (unsigned)number(r);
    } else if (is(r, ".v2") || is(r, ".v4")) {
      vector = is(r, ".v2") ? 2 : 4;
    } else if (bytes) {
      v->element_bytes = bytes;
      v->bytes = (uint64_t)bytes * vector;
    } else if (r->token.start[0] != '.') {
      v->name = r->token.start;
      v->name_length = r->token.length;
      break;
    }
  }
  if (!v->name || !v->bytes)
    return false;
  if (!v->alignment)
    v->alignment = (unsigned)v->bytes;
  return read_dimensions(r, v);
}

/* "= 5" or "= {1, 2}": integers only; other initialisers (addresses, floats) leave zeros. */
static CUresult read_initial(struct reader *r, const struct variable *v, struct sim_image_global *global) {
  if (!next(r) || !is(r, "="))
    return CUDA_SUCCESS;
  global->initial = calloc(1, v->bytes);
  if (!global->initial)
    return CUDA_ERROR_OUT_OF_MEMORY;
  bool negative = false;
  for (uint64_t at = 0; next(r) && !is(r, ";");) {
    if (is(r, "-"))
      negative = true;
    if (!isdigit((unsigned char)r->token.start[0]))
      continue;
    uint64_t value = negative ? -number(r) : number(r);
    negative = false;
    if (v->element_bytes <= sizeof value && at + v->element_bytes <= v->bytes)
      memcpy(global->initial + at, &value, v->element_bytes);
    at += v->element_bytes;
  }
  return CUDA_SUCCESS;
}

static CUresult read_module_variable(struct reader *r, struct sim_image *image) {
  struct variable v;
  if (!read_variable(r, &v))
    return CUDA_ERROR_INVALID_PTX;
  struct sim_image_global *global = sim_image_add_global(image, v.name, v.name_length, v.bytes);
  return global ? read_initial(r, &v, global) : CUDA_ERROR_OUT_OF_MEMORY;
}

/* ---- kernels ---- */

static CUresult read_parameters(struct reader *r, struct sim_image_function *function) {
  while (next(r) && !is(r, ")")) {
    struct variable v;
    if (is(r, ","))
      continue;
    if (!is(r, ".param") || !read_variable(r, &v))
      return CUDA_ERROR_INVALID_PTX;
    if (!sim_image_add_parameter(function, (uint32_t)v.bytes, v.alignment, UINT32_MAX))
      return CUDA_ERROR_INVALID_PTX;
  }
  return CUDA_SUCCESS;
}

/* ".maxntid 256" or ".reqntid 16, 16, 1" */
static void read_block_limit(struct reader *r, struct sim_image_function *function) {
  uint64_t threads = 1;
  struct reader ahead = *r;
  while (next(&ahead) && (isdigit((unsigned char)ahead.token.start[0]) || is(&ahead, ","))) {
    if (!is(&ahead, ","))
      threads *= number(&ahead);
    *r = ahead;
  }
  if (threads && threads < function->max_threads)
    function->max_threads = (unsigned)threads;
}

static CUresult read_body(struct reader *r, struct sim_image_function *function) {
  unsigned depth = 1;
  while (depth && next(r)) {
    struct variable v;
    if (is(r, "{"))
      depth++;
    else if (is(r, "}"))
      depth--;
    else if (is(r, ".shared") && read_variable(r, &v))
      function->shared_bytes += (unsigned)v.bytes;
  }
  return depth ? CUDA_ERROR_INVALID_PTX : CUDA_SUCCESS;
}

static CUresult read_entry(struct reader *r, struct sim_image *image) {
  if (!next(r))
    return CUDA_ERROR_INVALID_PTX;
  const char *body = r->at;
  struct sim_image_function *function = sim_image_add_function(image, r->token.start, r->token.length);
  if (!function)
    return CUDA_ERROR_OUT_OF_MEMORY;
  function->registers = 32;
  while (next(r) && !is(r, "{")) {
    CUresult result = CUDA_SUCCESS;
    if (is(r, ";"))
      return CUDA_ERROR_INVALID_PTX; /* a kernel without a body */
    if (is(r, "("))
      result = read_parameters(r, function);
    else if (is(r, ".maxntid") || is(r, ".reqntid"))
      read_block_limit(r, function);
    if (result != CUDA_SUCCESS)
      return result;
  }
  CUresult result = read_body(r, function);
  image->code_bytes += (uint64_t)(r->at - body);
  return result;
}

/* ---- the whole ---- */

/* Leading decimal digits of the token from `at` on; 0 without any. */
static unsigned digits(const struct reader *r, size_t at) {
  unsigned value = 0;
  for (; at < r->token.length && isdigit((unsigned char)r->token.start[at]) && value < 100000; at++)
    value = value * 10 + (unsigned)(r->token.start[at] - '0');
  return value;
}

/* PTX ISA 7.x came with CUDA 11.x, 8.x with 12.x, 9.x with 13.x; a driver takes its own and older. */
static CUresult read_version(struct reader *r, struct sim_image *image) {
  if (!next(r))
    return CUDA_ERROR_INVALID_PTX;
  const char *dot = memchr(r->token.start, '.', r->token.length);
  unsigned major = digits(r, 0), minor = dot ? digits(r, (size_t)(dot - r->token.start) + 1) : 0;
  int cuda = sim_cuda_version();
  image->ptx_version = major * 10 + minor;
  unsigned newest = (unsigned)(cuda / 1000 - 4) * 10 + (unsigned)(cuda % 1000 / 10);
  return image->ptx_version > newest ? CUDA_ERROR_UNSUPPORTED_PTX_VERSION : CUDA_SUCCESS;
}

static CUresult read_target(struct reader *r, int card) {
  if (!next(r) || r->token.length < 5 || memcmp(r->token.start, "sm_", 3))
    return CUDA_ERROR_INVALID_PTX;
  unsigned target = digits(r, 3);
  if (card < 0)
    return CUDA_SUCCESS;
  const struct sg_card_info *info = sg_card(card);
  return target > info->cc_major * 10 + info->cc_minor ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_SUCCESS;
}

static CUresult skip_function(struct reader *r) {
  unsigned depth = 0;
  while (next(r)) {
    if (is(r, "{"))
      depth++;
    else if (is(r, "}") && --depth == 0)
      return CUDA_SUCCESS;
    else if (is(r, ";") && depth == 0)
      return CUDA_SUCCESS; /* a declaration */
  }
  return CUDA_ERROR_INVALID_PTX;
}

CUresult sim_image_read_ptx(const char *text, size_t size, int card, struct sim_image *image) {
  struct reader reader = {.at = text, .end = text + size}, *r = &reader;
  CUresult result = CUDA_SUCCESS;
  bool external = false;
  while (result == CUDA_SUCCESS && next(r)) {
    if (is(r, ".version"))
      result = read_version(r, image);
    else if (is(r, ".target"))
      result = read_target(r, card);
    else if (is(r, ".entry"))
      result = read_entry(r, image);
    else if (is(r, ".func"))
      result = skip_function(r);
    else if ((is(r, ".global") || is(r, ".const")) && !external)
      result = read_module_variable(r, image);
    if (is(r, ".extern"))
      external = true;
    else if (is(r, ";"))
      external = false;
  }
  if (result == CUDA_SUCCESS && !image->ptx_version)
    return CUDA_ERROR_INVALID_PTX;
  return result;
}
