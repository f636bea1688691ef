/* cuda_image.h - what the driver needs to know of a module image: its kernels and globals. */
#ifndef CGPU_SIM_CUDA_IMAGE_H
#define CGPU_SIM_CUDA_IMAGE_H

#include "cuda_internal.h"

struct sim_image_function {
  char *name;
  enum sim_builtin builtin;
  unsigned parameter_count;
  struct sim_parameter *parameters; /* in order, each at its offset in the packed buffer */
  size_t parameter_bytes;
  unsigned registers, shared_bytes, const_bytes, local_bytes;
  unsigned max_threads; /* per block */
};

struct sim_image_global {
  char *name;
  uint64_t bytes;
  unsigned char *initial; /* `bytes` of it, or NULL for zeros */
};

struct sim_image { /* shared by a library and its modules */
  _Atomic int references;
  uint64_t code_bytes;
  unsigned ptx_version, binary_version; /* 10 * major + minor; 0: the image has none */
  unsigned function_count, global_count;
  struct sim_image_function *functions;
  struct sim_image_global *globals;
};

/* Reads a cubin, a fat binary, PTX, the output of cuLinkComplete, or a test module. `size` is
 * SIZE_MAX when the caller knows none (the format then says where the image ends). `card`: for which
 * the code must be fit, or -1 for no card in particular. Errors: INVALID_IMAGE, INVALID_PTX,
 * UNSUPPORTED_PTX_VERSION, NO_BINARY_FOR_GPU, OUT_OF_MEMORY (host). */
CUresult sim_image_read(const void *data, size_t size, int card, struct sim_image **image);
void sim_image_retain(struct sim_image *image);
void sim_image_release(struct sim_image *image);
/* A file, with a terminating 0 behind it. FILE_NOT_FOUND, OUT_OF_MEMORY. */
CUresult sim_image_file(const char *path, void **data, size_t *size);
/* A copy of an image in memory, in one piece (what a fat binary's wrapper points to, instead of it). */
CUresult sim_image_copy(const void *data, void **copy, size_t *size);
/* How long an image is, of which only the beginning is known. 0: not an image. */
size_t sim_image_extent(const void *data, size_t size);

/* Several images as one (cuLinkComplete); *data is malloc'ed. */
struct sim_image_part {
  const void *data;
  size_t size;
};
CUresult sim_image_join(const struct sim_image_part *parts, unsigned count, void **data, size_t *size);

/* ---- for the readers of the formats ---- */

/* Appends a zeroed entry (name copied); NULL for want of host memory. */
struct sim_image_function *sim_image_add_function(struct sim_image *image, const char *name, size_t name_length);
struct sim_image_global *sim_image_add_global(struct sim_image *image, const char *name, size_t name_length,
                                              uint64_t bytes);
/* Appends a parameter at the next multiple of `alignment`, or at `offset` if that is not UINT32_MAX. */
bool sim_image_add_parameter(struct sim_image_function *function, uint32_t bytes, uint32_t alignment, uint32_t offset);
/* Gives the built-in behaviour to the kernels that have the name and the signature of one. */
void sim_image_find_builtins(struct sim_image *image);

CUresult sim_image_read_elf(const void *data, size_t size, int card, struct sim_image *image);
CUresult sim_image_read_ptx(const char *text, size_t size, int card, struct sim_image *image);
size_t sim_elf_extent(const void *data, size_t size);

#endif
