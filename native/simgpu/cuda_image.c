/* cuda_image.c - images of code: which format, which part of it, and several as one.
 *
 * Test modules are our own text format, for tests that need kernels with an effect:
 *
 *   cgpu-sim-module 1
 *   spin
 *   hold
 *   global NAME BYTES
 *
 * Each further line names one built-in kernel (cuda_launch.c) or a global variable.
 */
#include "cuda_image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_MODULE "cgpu-sim-module 1\n"
#define JOINED_MAGIC 0x757067634b4e4c7full /* "\177LNKcgpu": what sim_image_join makes */
#define ELF_MAGIC 0x464c457fu
#define WRAPPER_MAGIC 0x466243b1u          /* of __cudaFatCudaBinary (fatbinary_section.h) */
#define FATBIN_MAGIC 0xba55ed50u

struct wrapper { /* fatbinary_section.h */
  uint32_t magic, version;
  const void *data;
  void *unused;
};
struct fatbin {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes; /* behind the header */
};
struct fatbin_entry {
  uint16_t kind, version; /* kind 1: PTX, 2: ELF */
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes, options_offset;
  uint16_t minor, major;
  uint32_t architecture, name_offset, name_bytes;
  uint64_t flags, unused, original_bytes;
};
enum { ENTRY_PTX = 1, ENTRY_ELF = 2 };
#define ENTRY_COMPRESSED 0xf000u /* any of the compression flags */

struct joined {
  uint64_t magic, bytes, count; /* bytes: of everything; then per part its size and itself, padded to 8 */
};

/* ---- building ---- */

static char *copy_name(const char *name, size_t length) {
  char *copy = malloc(length + 1);
  if (copy) {
    memcpy(copy, name, length);
    copy[length] = 0;
  }
  return copy;
}

struct sim_image_function *sim_image_add_function(struct sim_image *image, const char *name, size_t name_length) {
  struct sim_image_function *grown = realloc(image->functions, (image->function_count + 1) * sizeof *grown);
  if (!grown)
    return NULL;
  image->functions = grown;
  struct sim_image_function *function = &grown[image->function_count];
  *function = (struct sim_image_function){.name = copy_name(name, name_length), .max_threads = 1024};
  if (!function->name)
    return NULL;
  image->function_count++;
  return function;
}

struct sim_image_global *sim_image_add_global(struct sim_image *image, const char *name, size_t name_length,
                                              uint64_t bytes) {
  struct sim_image_global *grown = realloc(image->globals, (image->global_count + 1) * sizeof *grown);
  if (!grown)
    return NULL;
  image->globals = grown;
  struct sim_image_global *global = &grown[image->global_count];
  *global = (struct sim_image_global){.name = copy_name(name, name_length), .bytes = bytes};
  if (!global->name)
    return NULL;
  image->global_count++;
  return global;
}

bool sim_image_add_parameter(struct sim_image_function *function, uint32_t bytes, uint32_t alignment, uint32_t offset) {
  if (function->parameter_count >= SIM_MAX_PARAMETERS || !bytes || !alignment || (alignment & (alignment - 1)) ||
      bytes > (32u << 10))
    return false;
  if (offset == UINT32_MAX)
    offset = (uint32_t)((function->parameter_bytes + alignment - 1) / alignment * alignment);
  struct sim_parameter *grown = realloc(function->parameters, (function->parameter_count + 1) * sizeof *grown);
  if (!grown)
    return false;
  function->parameters = grown;
  grown[function->parameter_count++] = (struct sim_parameter){offset, bytes};
  if (offset + bytes > function->parameter_bytes)
    function->parameter_bytes = offset + bytes;
  return true;
}

struct builtin {
  const char *name; /* in test modules; elsewhere with "cgpu_" before it */
  enum sim_builtin builtin;
  unsigned count;
  uint32_t bytes[2];
};

static const struct builtin builtins[] = {
    {"spin", SIM_KERNEL_SPIN, 1, {8, 0}},
    {"hold", SIM_KERNEL_HOLD, 2, {8, 4}},
    {"set", SIM_KERNEL_SET, 2, {8, 4}},
    {"barrier", SIM_KERNEL_BARRIER, 2, {8, 4}},
};
#define BUILTINS (sizeof builtins / sizeof builtins[0])

static bool has_signature(const struct sim_image_function *function, const struct builtin *builtin) {
  if (function->parameter_count != builtin->count)
    return false;
  for (unsigned i = 0; i < builtin->count; i++)
    if (function->parameters[i].bytes != builtin->bytes[i])
      return false;
  return true;
}

void sim_image_find_builtins(struct sim_image *image) {
  for (unsigned i = 0; i < image->function_count; i++) {
    struct sim_image_function *function = &image->functions[i];
    for (unsigned b = 0; b < BUILTINS; b++)
      if (!strncmp(function->name, "cgpu_", 5) && !strcmp(function->name + 5, builtins[b].name) &&
          has_signature(function, &builtins[b]))
        function->builtin = builtins[b].builtin;
  }
}

/* ---- test modules ---- */

static CUresult add_builtin(struct sim_image *image, const char *name) {
  for (unsigned b = 0; b < BUILTINS; b++) {
    if (strcmp(name, builtins[b].name))
      continue;
    struct sim_image_function *function = sim_image_add_function(image, name, strlen(name));
    if (!function)
      return CUDA_ERROR_OUT_OF_MEMORY;
    function->builtin = builtins[b].builtin;
    for (unsigned i = 0; i < builtins[b].count; i++)
      if (!sim_image_add_parameter(function, builtins[b].bytes[i], builtins[b].bytes[i], UINT32_MAX))
        return CUDA_ERROR_OUT_OF_MEMORY;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_IMAGE;
}

static CUresult read_test_line(struct sim_image *image, const char *line) {
  char name[128];
  unsigned long long bytes;
  if (sscanf(line, "global %127s %llu", name, &bytes) == 2 && bytes)
    return sim_image_add_global(image, name, strlen(name), bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  return sscanf(line, "%127s", name) == 1 ? add_builtin(image, name) : CUDA_SUCCESS;
}

static CUresult read_test_module(const char *text, size_t size, struct sim_image *image) {
  const char *end = text + size;
  image->code_bytes = size;
  for (const char *at = text + strlen(TEST_MODULE); at < end;) {
    char line[256];
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t length = (size_t)((stop ? stop : end) - at);
    if (length >= sizeof line)
      return CUDA_ERROR_INVALID_IMAGE;
    memcpy(line, at, length);
    line[length] = 0;
    CUresult result = read_test_line(image, line);
    if (result != CUDA_SUCCESS)
      return result;
    at += length + 1;
  }
  return CUDA_SUCCESS;
}

/* ---- formats: containers hold code, joined images hold anything but themselves ---- */

static uint32_t magic_of(const void *data, size_t size) {
  uint32_t magic = 0;
  if (size >= sizeof magic)
    memcpy(&magic, data, sizeof magic);
  return magic;
}

static size_t fatbin_extent(const void *data, size_t size) {
  struct fatbin fatbin;
  if (size < sizeof fatbin)
    return 0;
  memcpy(&fatbin, data, sizeof fatbin);
  bool sound = fatbin.header_bytes >= sizeof fatbin && fatbin.header_bytes <= size &&
               fatbin.bytes <= size - fatbin.header_bytes;
  return sound ? fatbin.header_bytes + fatbin.bytes : 0;
}

static size_t joined_extent(const void *data, size_t size) {
  struct joined joined;
  if (size < sizeof joined)
    return 0;
  memcpy(&joined, data, sizeof joined);
  return joined.magic == JOINED_MAGIC && joined.bytes >= sizeof joined && joined.bytes <= size ? joined.bytes : 0;
}

size_t sim_image_extent(const void *data, size_t size) {
  switch (magic_of(data, size)) {
  case ELF_MAGIC:
    return sim_elf_extent(data, size);
  case FATBIN_MAGIC:
    return fatbin_extent(data, size);
  case (uint32_t)JOINED_MAGIC:
    return joined_extent(data, size);
  default:
    return size == SIZE_MAX ? strlen(data) : strnlen(data, size);
  }
}

static CUresult read_code(const void *data, size_t size, int card, struct sim_image *image) {
  if (magic_of(data, size) == ELF_MAGIC)
    return sim_image_read_elf(data, size, card, image);
  size_t length = strnlen(data, size);
  if (length >= strlen(TEST_MODULE) && !memcmp(data, TEST_MODULE, strlen(TEST_MODULE)))
    return read_test_module(data, length, image);
  return memmem(data, length, ".version", 8) ? sim_image_read_ptx(data, length, card, image) : CUDA_ERROR_INVALID_IMAGE;
}

/* The entry that the card takes: a cubin of its architecture, else PTX. */
static CUresult read_fatbin(const unsigned char *data, size_t size, int card, struct sim_image *image) {
  struct fatbin fatbin;
  struct fatbin_entry entry, chosen = {0};
  memcpy(&fatbin, data, sizeof fatbin);
  const unsigned char *part = NULL;
  for (size_t at = fatbin.header_bytes; at + sizeof entry <= size;) {
    memcpy(&entry, data + at, sizeof entry);
    if (entry.header_bytes < sizeof entry || entry.header_bytes > size - at ||
        entry.bytes > size - at - entry.header_bytes)
      return CUDA_ERROR_INVALID_IMAGE;
    const struct sg_card_info *info = card >= 0 ? sg_card(card) : NULL;
    unsigned major = entry.architecture / 10, minor = entry.architecture % 10;
    bool elf = entry.kind == ENTRY_ELF && (!info || (major == info->cc_major && minor <= info->cc_minor));
    bool ptx = entry.kind == ENTRY_PTX && (!info || entry.architecture <= info->cc_major * 10 + info->cc_minor);
    bool better = chosen.kind != entry.kind ? elf || !part : entry.architecture > chosen.architecture;
    if ((elf || ptx) && better) {
      chosen = entry;
      part = data + at + entry.header_bytes;
    }
    at += entry.header_bytes + entry.bytes;
  }
  if (!part)
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  if (chosen.flags & ENTRY_COMPRESSED) /* not modelled; `fatbinary --compress=false` leaves it out */
    return CUDA_ERROR_NOT_SUPPORTED;
  return read_code(part, chosen.bytes, card, image);
}

static CUresult read_unjoined(const void *data, size_t size, int card, struct sim_image *image) {
  if (magic_of(data, size) == (uint32_t)JOINED_MAGIC) /* of which there is none within another */
    return CUDA_ERROR_INVALID_IMAGE;
  if (magic_of(data, size) != FATBIN_MAGIC)
    return read_code(data, size, card, image);
  size_t extent = fatbin_extent(data, size);
  return extent ? read_fatbin(data, extent, card, image) : CUDA_ERROR_INVALID_IMAGE;
}

static CUresult read_joined(const unsigned char *data, size_t size, int card, struct sim_image *image) {
  struct joined joined;
  memcpy(&joined, data, sizeof joined);
  size_t at = sizeof joined;
  for (uint64_t i = 0; i < joined.count; i++) {
    uint64_t bytes;
    if (size - at < sizeof bytes)
      return CUDA_ERROR_INVALID_IMAGE;
    memcpy(&bytes, data + at, sizeof bytes);
    at += sizeof bytes;
    if (bytes > size - at)
      return CUDA_ERROR_INVALID_IMAGE;
    CUresult result = read_unjoined(data + at, bytes, card, image);
    if (result != CUDA_SUCCESS)
      return result;
    at += (bytes + 7) / 8 * 8;
    at = at > size ? size : at;
  }
  return CUDA_SUCCESS;
}

/* A wrapper in memory points to the fat binary; in a file it would point nowhere. */
static const void *unwrap(const void *data, size_t size) {
  struct wrapper wrapper;
  if (size != SIZE_MAX || magic_of(data, size) != WRAPPER_MAGIC)
    return data;
  memcpy(&wrapper, data, sizeof wrapper);
  return wrapper.data;
}

static CUresult read_any(const void *data, size_t size, int card, struct sim_image *image) {
  data = unwrap(data, size);
  size_t extent = sim_image_extent(data, size);
  if (!extent)
    return CUDA_ERROR_INVALID_IMAGE;
  if (magic_of(data, extent) == (uint32_t)JOINED_MAGIC)
    return read_joined(data, extent, card, image);
  return read_unjoined(data, extent, card, image);
}

CUresult sim_image_read(const void *data, size_t size, int card, struct sim_image **image) {
  struct sim_image *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  atomic_store(&fresh->references, 1);
  CUresult result = read_any(data, size, card, fresh);
  if (result != CUDA_SUCCESS) {
    sim_image_release(fresh);
    return result;
  }
  sim_image_find_builtins(fresh);
  *image = fresh;
  return CUDA_SUCCESS;
}

void sim_image_retain(struct sim_image *image) { atomic_fetch_add(&image->references, 1); }

void sim_image_release(struct sim_image *image) {
  if (atomic_fetch_sub(&image->references, 1) != 1)
    return;
  for (unsigned i = 0; i < image->function_count; i++) {
    free(image->functions[i].name);
    free(image->functions[i].parameters);
  }
  for (unsigned i = 0; i < image->global_count; i++) {
    free(image->globals[i].name);
    free(image->globals[i].initial);
  }
  free(image->functions);
  free(image->globals);
  free(image);
}

/* ---- files, copies, and several images as one ---- */

CUresult sim_image_copy(const void *data, void **copy, size_t *size) {
  data = unwrap(data, SIZE_MAX);
  *size = sim_image_extent(data, SIZE_MAX);
  if (!*size)
    return CUDA_ERROR_INVALID_IMAGE;
  char *out = malloc(*size + 1);
  if (!out)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(out, data, *size);
  out[*size] = 0;
  *copy = out;
  return CUDA_SUCCESS;
}

CUresult sim_image_file(const char *path, void **data, size_t *size) {
  FILE *file = fopen(path, "rbe");
  if (!file)
    return CUDA_ERROR_FILE_NOT_FOUND;
  size_t used = 0, room = 64u << 10;
  char *text = malloc(room + 1);
  while (text) {
    used += fread(text + used, 1, room - used, file);
    if (used < room)
      break;
    room *= 2;
    char *grown = realloc(text, room + 1);
    if (!grown)
      free(text);
    text = grown;
  }
  bool broken = ferror(file);
  fclose(file);
  if (!text || broken) {
    free(text);
    return broken ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_OUT_OF_MEMORY;
  }
  text[used] = 0;
  *data = text;
  *size = used;
  return CUDA_SUCCESS;
}

CUresult sim_image_join(const struct sim_image_part *parts, unsigned count, void **data, size_t *size) {
  struct joined joined = {.magic = JOINED_MAGIC, .bytes = sizeof joined, .count = count};
  for (unsigned i = 0; i < count; i++)
    joined.bytes += sizeof(uint64_t) + (parts[i].size + 7) / 8 * 8;
  unsigned char *out = calloc(1, joined.bytes);
  if (!out)
    return CUDA_ERROR_OUT_OF_MEMORY;
  size_t at = sizeof joined;
  memcpy(out, &joined, sizeof joined);
  for (unsigned i = 0; i < count; i++) {
    uint64_t bytes = parts[i].size;
    memcpy(out + at, &bytes, sizeof bytes);
    memcpy(out + at + sizeof bytes, parts[i].data, parts[i].size);
    at += sizeof bytes + (parts[i].size + 7) / 8 * 8;
  }
  *data = out;
  *size = joined.bytes;
  return CUDA_SUCCESS;
}
